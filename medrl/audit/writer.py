"""Keeps the audit off the answer path: a bounded queue, a thread that writes batches, and a spill for what they refuse.

Records of one writer keep their order: what is in the queue is older than `_tail`, and `_head` holds what was in the
queue when the database failed. All three are taken in before a new record may use the queue again.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

from medrl.audit.key import AuditKey, load_key
from medrl.audit.record import Answer, AuditEntry, sealed
from medrl.audit.spill import SUFFIX, SpillDamaged, SpillFile, adopt
from medrl.audit.store import AuditStore
from medrl.config.audit import AuditConfig
from medrl.errors import AuditError, DatabaseError, MedrlError

LOG = logging.getLogger(__name__)


@dataclass
class WriterCounts:
    """What became of the records since the writer began."""

    recorded: int = 0  # that `record` was given
    written: int = 0  # handed to the database, with those found in the spill of a writer that died
    spilled: int = 0  # that went to the spill first
    lost: int = 0  # that nothing took: `record` raised, or they were left when the writer was closed
    failures: int = 0  # attempts that the database failed
    damaged: int = 0  # spill files that were set aside


def open_writer(config: AuditConfig) -> AuditWriter:
    """The writer a config describes; it begins though the database is down.

    Raises ConfigError, and AuditError when the chain there was not signed with this key.
    """
    key = load_key(config)
    store = AuditStore(config, key)
    try:
        store.append([])
    except DatabaseError as error:
        LOG.warning("audit: %s", error)
    return AuditWriter(config, key, store)


class AuditWriter:
    """`record` puts an answer into the queue; a thread of its own takes it to the database."""

    def __init__(self, config: AuditConfig, key: AuditKey, store: AuditStore) -> None:
        self._config, self._key, self._store = config, key, store
        self._folder = Path(config.spill_dir)
        self._name = f"{time.time_ns()}-{uuid.uuid4().hex[:8]}"
        self._episode = 0
        self._counts = WriterCounts()
        self._changed = threading.Condition()
        self._queue: deque[AuditEntry] = deque()
        self._in_flight: list[AuditEntry] = []
        self._spilling = self._closed = False
        self._new_episode()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def record(self, answer: Answer) -> None:
        """Take one answer. Never waits for the database.

        Raises AuditError when the record cannot be kept: a label that is none, a closed writer, or a full disk while
        the queue is full or the database down.
        """
        entry = sealed(answer, self._key)
        with self._changed:
            if self._closed:
                raise AuditError("the audit writer is closed")
            self._counts.recorded += 1
            if not self._spilling and len(self._queue) < self._config.queue_size:
                self._queue.append(entry)
                self._changed.notify()
                return
            try:
                self._tail.append([entry])
            except OSError as error:
                self._counts.lost += 1
                raise AuditError("an audit record is lost: neither the database nor the spill folder takes it",
                                 got=type(error).__name__, remedy=f"make room in {self._folder}") from None
            self._counts.spilled += 1
            if not self._spilling:
                self._spilling = True
                LOG.warning("audit: the queue is full, records go to %s", self._tail.path)

    def counts(self) -> WriterCounts:
        """A copy of the counters."""
        with self._changed:
            return replace(self._counts)

    def close(self, timeout: float) -> None:
        """Refuse new records and write what there is; what is left after `timeout` seconds goes to the spill."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            # What is in flight may still reach the database: its id keeps it from being taken in twice.
            self._to_spill()
        else:
            self._store.close()
        with self._changed:
            self._head.release()
            self._tail.release()
            if self._queue:
                self._counts.lost += len(self._queue)
                LOG.error("audit: %d records are lost: neither the database nor %s takes them", len(self._queue),
                          self._folder)

    def _run(self) -> None:
        failed = False
        while True:
            batch = self._next_batch(failed)
            closed = self._closed  # before the attempt: only one that began after `close` is the last
            try:
                if batch:
                    self._append(batch)
                    self._in_flight = []
                else:
                    self._take_in()
                if failed:
                    LOG.warning("audit: the database takes records again")
                failed = False
            except Exception as error:  # whatever it is, the records must not stay in a queue that nobody empties
                self._counts.failures += 1
                if not failed:
                    why = error if isinstance(error, MedrlError) else type(error).__name__
                    LOG.error("audit: records go to %s: %s", self._folder, why)
                failed = True
                self._to_spill()
            if closed and (failed or not (self._queue or self._spilling)):
                return

    def _next_batch(self, failed: bool) -> list[AuditEntry]:
        """The oldest records of the queue, if there are any after `retry_seconds`.

        A database that failed is left alone for that long; a spill behind the queue is not kept waiting.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or not failed and (self._queue or self._spilling), self._config.retry_seconds)
            size = min(len(self._queue), self._config.batch_size)
            self._in_flight = [self._queue.popleft() for _ in range(size)]
            return self._in_flight

    def _append(self, entries: list[AuditEntry]) -> None:
        self._store.append(entries)
        self._counts.written += len(entries)

    def _to_spill(self) -> None:
        """Empty the memory into the spill, so that a database that is down costs no record when the process dies."""
        with self._changed:
            backlog = [*self._in_flight, *self._queue]
            self._queue.clear()
            self._in_flight = []
            self._spilling = True
        try:
            if backlog:
                self._head.append(backlog)
                with self._changed:
                    self._counts.spilled += len(backlog)
            self._head.sync()
            self._tail.sync()
        except OSError as error:
            with self._changed:
                self._queue.extendleft(reversed(backlog))
            LOG.error("audit: %d records stay in memory: %s cannot be written to (%s)", len(backlog), self._folder,
                      type(error).__name__)

    def _take_in(self) -> None:
        """Bring to the database what is in the files: those of writers that died, then our own in order."""
        for file in adopt(self._folder, self._name, self._key):
            try:
                self._take_in_file(file)
                file.remove()
            finally:
                file.release()
        if not self._spilling:
            return
        self._take_in_file(self._head)
        self._take_in_file(self._tail)
        with self._changed:
            if self._queue or self._tail.unread:
                return
            self._spilling = False
            done = self._head, self._tail
            self._new_episode()
        for file in done:
            file.remove()

    def _take_in_file(self, file: SpillFile) -> None:
        try:
            for batch in file.batches(self._config.batch_size):
                self._append(batch)
        except SpillDamaged as error:
            with self._changed:
                file.set_aside()
                self._counts.damaged += 1
            LOG.error("audit: set aside as %s: %s", file.path.with_suffix(".damaged"), error)

    def _new_episode(self) -> None:
        self._episode += 1
        self._head, self._tail = (
            SpillFile(self._folder / f"{self._name}-{self._episode:06d}-{part}{SUFFIX}", self._key)
            for part in ("a-before", "b-after"))
