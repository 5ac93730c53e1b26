"""Records that the database could not take at once: JSON lines in a local file, each signed together with those before.

A file is locked while its writer lives, so that a later writer can tell which files were left by one that died.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from medrl.audit.key import AuditKey
from medrl.audit.record import AuditEntry, canonical
from medrl.errors import AuditError, MedrlError

SUFFIX = ".jsonl"
LONGEST_LINE = 8192  # bytes: labels, numbers and digests leave room


class SpillDamaged(AuditError):
    """A line is not the one that was written."""


class SpillFile:
    """A file that is written at its end and read from its start. It exists once something is in it."""

    def __init__(self, path: Path, key: AuditKey, descriptor: int | None = None) -> None:
        self.path = path
        self._key = key
        self._descriptor = descriptor
        self._begin(size=0 if descriptor is None else os.fstat(descriptor).st_size)

    def append(self, entries: Sequence[AuditEntry]) -> None:
        """Write all entries, or none and raise OSError."""
        if self._descriptor is None:
            self._descriptor = self._create()
        mac, lines = self._write_mac, []
        for entry in entries:
            values = asdict(entry)
            mac = self._mac(mac, values)
            lines.append(canonical({"entry": values, "mac": mac}) + b"\n")
        text = b"".join(lines)
        try:
            if os.write(self._descriptor, text) < len(text):
                raise OSError("the disk took a part only")
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._write_mac = mac
        self._size += len(text)  # last: `batches` may be reading in another thread

    def batches(self, size: int) -> Iterator[list[AuditEntry]]:
        """Entries not yet read, at most `size` at a time, up to the end there is now.

        A batch counts as read when the next one is asked for: one that the caller fails on comes again.
        Raises SpillDamaged at a line that was changed, moved or torn.
        """
        while lines := self._lines(size):
            entries, mac, length = [], self._read_mac, 0
            for line in lines:
                entry, line_mac = self._entry(line, mac)
                if line_mac is None:
                    break
                entries.append(entry)
                mac, length = line_mac, length + len(line)
            if entries:
                yield entries
                self._read_mac, self._position = mac, self._position + length
            if len(entries) < len(lines):
                raise SpillDamaged(f"{self.path} was changed, or cut short while it was written",
                                   got=f"a line that is not signed at byte {self._position}")

    @property
    def unread(self) -> bool:
        return self._position < self._size

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def remove(self) -> None:
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
        self.release()

    def set_aside(self) -> None:
        """Keep the file under another name, where nobody takes it for a spill."""
        self.path.rename(self.path.with_suffix(".damaged"))
        self.release()
        self._begin(size=0)

    def release(self) -> None:
        """Close the file; another writer may then adopt it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _begin(self, size: int) -> None:
        self._size, self._position = size, 0  # bytes written, and read
        self._write_mac = self._read_mac = ""  # of the newest line written, and read

    def _create(self) -> int:
        """A file that nobody sees before it is locked."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        hidden = self.path.with_suffix(".new")
        descriptor = os.open(hidden, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hidden.rename(self.path)
        return descriptor

    def _lines(self, count: int) -> list[bytes]:
        if self._descriptor is None:
            return []
        length = min(count * LONGEST_LINE, self._size - self._position)
        lines = os.pread(self._descriptor, length, self._position).splitlines(keepends=True)[:count]
        whole = [line for line in lines if line.endswith(b"\n")]
        return whole or lines  # a torn line on its own is read too, and found unsigned

    def _entry(self, line: bytes, mac_before: str) -> tuple[AuditEntry, str] | tuple[None, None]:
        try:
            row = json.loads(line)
            values, mac = row["entry"], row["mac"]
            if mac == self._mac(mac_before, values):
                return AuditEntry(**values), mac
        except (ValueError, KeyError, TypeError, MedrlError):
            pass
        return None, None

    def _mac(self, before: str, values: dict[str, object]) -> str:
        return self._key.digest("spill", before + canonical(values).decode())


def adopt(folder: Path, own: str, key: AuditKey) -> Iterator[SpillFile]:
    """The files that writers left behind when they died, oldest first; `own`: how the names of one's own begin."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.name.startswith(own):
            continue
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:  # another writer has taken it in
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        yield SpillFile(path, key, descriptor)
