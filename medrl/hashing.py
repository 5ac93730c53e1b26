"""The hash of files and folders: what a run read, whatever it is called."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


def content_hash(path: str) -> str:
    """sha256 over the names and bytes of a file, or of all files below a folder."""
    root = Path(path)
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.relative_to(root)} {_file_hash(file, status.st_size, status.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=4096)
def _file_hash(file: Path, _size: int, _time: int) -> str:
    """`_size` and `_time` make the cached value stale when the file is written."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
