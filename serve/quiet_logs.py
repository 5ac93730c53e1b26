"""How vLLM's processes log: what happened and where, in no words that a request could have brought along."""

from __future__ import annotations

import linecache
import logging
import os
import sys
import threading
import traceback
from datetime import datetime
from pathlib import Path

from serve.orphans import end_with_parent

CONFIG = Path(__file__).with_name("quiet_logs.json")
# Failures before the first request, whose words help.
BEFORE_REQUESTS = {"EngineCore failed to start.", "WorkerProc failed to start."}


def configure() -> None:
    """Whatever vLLM starts in this process and from it logs so. To be called before vLLM is imported."""
    os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(CONFIG)
    # A package that vLLM's app imports sets the root logger to this level, or to ERROR, which would hide our warnings.
    os.environ.setdefault("SAGEMAKER_CONTAINER_LOG_LEVEL", "WARNING")


class QuietFormatter(logging.Formatter):
    """A message is shown as it stands in the source, without its arguments; exceptions by type and place.

    vLLM logs values it cannot use, among them a request's `stop` words when its engine fails.
    """

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).isoformat(timespec="seconds")
        head = f"{when} {record.levelname} {record.name} {record.filename}:{record.lineno} {_template(record)}"
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return head
        if record.msg in BEFORE_REQUESTS:
            return f"{head}\n{''.join(traceback.format_exception(error))}"
        return f"{head.rstrip()}\n{_places(error)}"


def quiet_handler() -> logging.Handler:
    """Writes to standard error. From then on Python itself quotes nothing there either."""
    end_with_parent()  # here because nothing else of ours runs in every process that vLLM starts
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # else a record that cannot be written is shown with its arguments
    traceback.print_exc = lambda *_, **__: _tell(sys.exception())  # how a process of `multiprocessing` ends
    sys.excepthook = lambda _, error, __: _tell(error)
    threading.excepthook = lambda end: _tell(end.exc_value)
    handler = logging.StreamHandler()
    handler.setFormatter(QuietFormatter())
    return handler


def _template(record: logging.LogRecord) -> str:
    """The message's own words, if they stand in the file that logs it: not what it was put together from."""
    source = "".join(linecache.getlines(record.pathname))
    return record.msg if isinstance(record.msg, str) and record.msg in source else ""


def _tell(error: BaseException | None) -> None:
    if error:
        sys.stderr.write(f"{_places(error)}\n")


def _places(error: BaseException | None) -> str:
    """An exception and those behind it, the newest first: of what type, and where."""
    told = []
    while error:
        told.append(f"{type(error).__name__} at\n{''.join(traceback.format_tb(error.__traceback__))}".rstrip())
        error = error.__cause__ or error.__context__
    return "\n".join(told)
