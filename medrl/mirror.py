"""Copies of a run's checkpoints on storage that outlives its machines: a folder, or any URL that fsspec knows.

`<storage>/<run>/<when it started>/step-000012/…`, each checkpoint's manifest last: without it a copy does not count. A
thread copies the newest checkpoint while training goes on; where copying is slower than saving, those between are
skipped. A run that starts anew gets a folder of its own, a resumed one goes on in the newest.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StillRunning
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tenacity import Retrying, stop_after_delay, wait_exponential

from medrl import checkpoint
from medrl.errors import CheckpointError, ConfigError, MedrlError

T = TypeVar("T")
POLL_S = 1.0
WAIT = wait_exponential(multiplier=0.5, max=30.0)  # between attempts to copy


class Mirror:
    """The copies of one run, whose own checkpoints are in `root`. `timeout`: seconds that one copy may take.

    Raises ConfigError when the storage is of a kind that cannot be used here.
    """

    def __init__(
        self, storage: str, run: str, root: str | Path, *, keep_last: int, timeout: float, resume: bool,
        report: Callable[[str], None] = print,
    ) -> None:
        self._fs, base = _filesystem(storage)
        self._runs = f"{base.rstrip('/')}/{run}"
        self._root, self._keep_last, self.timeout, self.report = Path(root), keep_last, timeout, report
        self._resume = resume
        self._folder: str | None = None  # of this run; known when the storage has been asked
        self._copied = -1  # newest step whose copy is complete

    @property
    def folder(self) -> str:
        """Where the copies of this run are."""
        if self._folder is None:
            earlier = self._names(self._runs, r"\d{8}T\d{6}") if self._resume else []
            self._folder = f"{self._runs}/{earlier[-1] if earlier else time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
        return self._folder

    def fetch(self) -> None:
        """Bring the newest complete copy here if it is newer than what is here. Damaged ones are skipped, and said.

        Raises CheckpointError when the storage does not answer.
        """
        self._within_time(self._fetch, "fetching checkpoints")

    def copy_newest(self) -> None:
        """Copy the newest checkpoint that is here, unless that is done; tries again for `timeout` seconds.

        Raises CheckpointError when it cannot be copied.
        """
        here = checkpoint.steps(self._root)
        if not here or here[-1][0] <= self._copied:
            return
        step, path = here[-1]
        try:
            for attempt in Retrying(stop=stop_after_delay(self.timeout), wait=WAIT, reraise=True):
                with attempt:
                    if path.is_dir():  # else a newer one has taken its place meanwhile
                        self._copy(path)
        except Exception as error:  # whatever a storage's own client raises
            if not path.is_dir():
                return
            raise _failed(f"the checkpoint of step {step} could not be copied to {self.folder}", error) from error
        self._copied = step

    def finish(self) -> None:
        """The newest checkpoint is copied when this returns. Raises CheckpointError if it is not in time."""
        self._within_time(self.copy_newest, "copying the last checkpoint")

    def _fetch(self) -> None:
        newest = checkpoint.latest(self._root, self.report)
        for name in reversed(self._names(self.folder, r"step-\d{6,}")):
            step = _step(name)
            if newest and step <= newest[0]:
                self._copied = step if step == newest[0] else -1
                return
            arriving, final = self._root / f"{checkpoint.TEMPORARY}{name}", self._root / name
            shutil.rmtree(arriving, ignore_errors=True)
            try:
                self._download(f"{self.folder}/{name}", arriving)
                checkpoint.load_meta(arriving)  # every byte of it is what was saved
            except (CheckpointError, FileNotFoundError) as error:
                reason = error.got if isinstance(error, CheckpointError) else "it was never copied as a whole"
                self.report(f"skipping the copy {self.folder}/{name}: {reason}")
                shutil.rmtree(arriving, ignore_errors=True)
                continue
            shutil.rmtree(final, ignore_errors=True)  # a damaged one
            os.rename(arriving, final)
            self.report(f"fetched {self.folder}/{name}")
            self._copied = step
            return

    def _download(self, source: str, target: Path) -> None:
        target.mkdir(parents=True)
        self._fs.get_file(f"{source}/{checkpoint.MANIFEST}", str(target / checkpoint.MANIFEST))
        for name in checkpoint.file_names(target):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(f"{source}/{name}", str(target / name))

    def _copy(self, path: Path) -> None:
        target = f"{self.folder}/{path.name}"
        if self._fs.exists(target):
            self._remove(target)  # of an attempt that broke off, or damaged
        for name in [*checkpoint.file_names(path), checkpoint.MANIFEST]:
            if target.startswith("/"):  # elsewhere there are no folders, and a mistyped bucket would be made
                self._fs.makedirs(f"{target}/{name}".rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(path / name), f"{target}/{name}")
        self._prune(path.name)

    def _prune(self, newest: str) -> None:
        """Remove what is older than the last `keep_last`, half a copy, or later: else the run would be further on."""
        names = self._names(self.folder, r"step-\d{6,}")
        older = [name for name in names if _step(name) < _step(newest) and self._complete(name)]
        for name in set(names) - {newest, *older[len(older) - (self._keep_last - 1) :]}:
            self._remove(f"{self.folder}/{name}")

    def _complete(self, name: str) -> bool:
        return self._fs.exists(f"{self.folder}/{name}/{checkpoint.MANIFEST}")

    def _remove(self, copy: str) -> None:
        if self._fs.exists(f"{copy}/{checkpoint.MANIFEST}"):
            self._fs.rm_file(f"{copy}/{checkpoint.MANIFEST}")  # first: half a copy must not look like a whole one
        self._fs.rm(copy, recursive=True)

    def _names(self, folder: str, pattern: str) -> list[str]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(folder, detail=False)
        except FileNotFoundError:
            return []
        names = (path.rstrip("/").rpartition("/")[2] for path in found)
        return sorted((name for name in names if re.fullmatch(pattern, name)), key=lambda name: (len(name), name))

    def _within_time(self, work: Callable[[], None], what: str) -> None:
        """A storage that hangs must not hold up the run for ever: its call is left to its thread."""
        done: Future[None] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=run, name="mirror", daemon=True).start()
        try:
            done.result(timeout=2 * self.timeout)
        except StillRunning:
            raise CheckpointError(f"{what}: {self._runs} does not answer", limit=f"{2 * self.timeout:g} s",
                                  remedy="check the storage, or raise timeouts.checkpoint") from None
        except MedrlError:
            raise
        except Exception as error:
            raise _failed(f"{what}: {self._runs} cannot be used", error) from error


def mirror_of(config: Any, root: str | Path, timeout: float, *, resume: bool) -> Mirror | None:
    """The mirror of a stage's run; None without `checkpoint.storage`. A run that resumes gets the newest copy at once.

    Raises ConfigError and CheckpointError as `Mirror` does.
    """
    settings = config.checkpoint
    if settings.storage is None:
        return None
    mirror = Mirror(settings.storage, config.name, root, keep_last=settings.keep_last, timeout=timeout, resume=resume)
    if resume:
        mirror.fetch()
    return mirror


@contextmanager
def mirrored(mirror: Mirror | None) -> Iterator[None]:
    """New checkpoints are copied while the block runs, and the last one before it ends, whatever ends it.

    A copy that fails is said, and the next checkpoint is tried. CheckpointError when the last one could not be copied.
    """
    if mirror is None:
        yield
        return
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(POLL_S):
            try:
                mirror.copy_newest()
            except CheckpointError as error:
                mirror.report(f"warning: {error}")

    thread = threading.Thread(target=follow, name="mirror", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        ended.set()
        try:
            _finish(mirror, thread)
        except CheckpointError as error:
            mirror.report(f"error: {error}")  # what ended the block is told by its own exception
        raise
    ended.set()
    _finish(mirror, thread)


def _finish(mirror: Mirror, thread: threading.Thread) -> None:
    thread.join(timeout=2 * mirror.timeout)
    if thread.is_alive():
        raise CheckpointError(f"copying checkpoints to {mirror.folder} hangs", limit=f"{2 * mirror.timeout:g} s",
                              remedy="check the storage; the checkpoints in the run's folder are whole")
    mirror.finish()


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))


def _filesystem(storage: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(storage)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            "checkpoint.storage cannot be used", limit="a folder, or a URL that fsspec knows here",
            got=f"{storage}: {error}", remedy="install the package named above, or use another storage") from None


def _failed(what: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        what, got=f"{type(error).__name__}: {error}",
        remedy="check the storage and its credentials; the checkpoints in the run's folder are whole")
