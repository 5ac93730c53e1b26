"""SHA-256 of files and folders: what is the same is known by it, wherever it lies."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_hash(path: str) -> str:
    """sha256 over the names and bytes of a file, or of all files below a folder.

    A file that has kept its size and time is read once a process.
    """
    root = Path(path)
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.relative_to(root)} {_known_hash(file, status.st_size, status.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=4096)
def _known_hash(file: Path, _size: int, _time: int) -> str:
    """`_size` and `_time` make the cached value stale when the file is written."""
    return file_hash(file)
