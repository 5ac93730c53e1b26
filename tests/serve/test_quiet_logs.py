"""Logs of the engine's processes: what happened and where, without a word of a request."""

from __future__ import annotations

import json
import logging
import logging.config
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve.quiet_logs import CONFIG
from tests.services import ROOT

NAME = "Alma Quillfeather"


@contextmanager
def _set_up() -> Iterator[None]:
    """The loggers of vLLM and of others as vLLM sets them up."""
    root, vllm = logging.getLogger(), logging.getLogger("vllm")
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in (root, vllm)]
    loud, hooks = logging.raiseExceptions, (traceback.print_exc, sys.excepthook, threading.excepthook)
    known, logging._handlerList = logging._handlerList, []  # dictConfig would close other tests' handlers, and pytest's
    logging.config.dictConfig(json.loads(CONFIG.read_text()))
    try:
        yield
    finally:
        logging._handlerList = known
        logging.captureWarnings(False)
        logging.raiseExceptions = loud
        traceback.print_exc, sys.excepthook, threading.excepthook = hooks
        for logger, logger.handlers, level, logger.propagate in before:
            logger.setLevel(level)


def _fail() -> None:
    try:
        raise ValueError(f"cannot read {NAME}")
    except ValueError as error:
        raise RuntimeError(f"about {NAME}") from error


def test_words_of_a_request_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    with _set_up():
        log = logging.getLogger("vllm.engine")
        log.error("Dumping scheduler output for model execution: %s", NAME)
        log.error(f"no such model: {NAME}")
        log.info("nothing")
    text = capfd.readouterr().err
    assert "test_quiet_logs.py" in text and "Dumping scheduler output for model execution" in text
    assert NAME not in text and "nothing" not in text and len(text.splitlines()) == 2


@pytest.mark.parametrize("name", ["vllm.engine", "asyncio"])
def test_a_failure_is_told_by_its_type_and_place(capfd: pytest.CaptureFixture[str], name: str) -> None:
    with _set_up():
        try:
            _fail()
        except RuntimeError:
            logging.getLogger(name).exception("EngineCore encountered a fatal error.")
    text = capfd.readouterr().err
    assert "RuntimeError at" in text and "ValueError at" in text and ", in _fail" in text
    assert "Quillfeather" not in text


def test_a_failed_start_is_told_in_full(capfd: pytest.CaptureFixture[str]) -> None:
    with _set_up():
        try:
            raise MemoryError("no room for the KV cache")
        except MemoryError:
            logging.getLogger("vllm.engine").exception("EngineCore failed to start.")
    assert "no room for the KV cache" in capfd.readouterr().err


def test_warnings_quote_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with _set_up():
        warnings.warn(f"unexpected value {NAME}", UserWarning, stacklevel=1)
    text = capfd.readouterr().err
    assert "py.warnings" in text and NAME not in text



@pytest.mark.parametrize("end", ["Process(target=fail)", "Thread(target=fail)", "fail()"])
def test_what_ends_with_an_exception_quotes_nothing(end: str, tmp_path: Path) -> None:
    """As it runs in processes of vLLM: the last words of a process, a thread and a program."""
    program = tmp_path / "program.py"
    program.write_text(f"""
import json, logging.config, sys
from multiprocessing import Process
from threading import Thread
logging.config.dictConfig(json.load(open({str(CONFIG)!r})))
def fail():
    raise RuntimeError(sys.argv[1])
run = {end if "(t" in end else "None"}
run.start() if run else fail()
run.join()
""")
    done = subprocess.run([sys.executable, program, NAME], capture_output=True, text=True, cwd=ROOT,
                          env={"PYTHONPATH": str(ROOT)})
    assert "RuntimeError at" in done.stderr and "in fail" in done.stderr
    assert NAME not in done.stderr + done.stdout
