"""SHA-256 of files and folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medrl.hashing import content_hash, file_hash


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"abc" * 100_000)
    assert file_hash(tmp_path / "a") == file_hash(tmp_path / "b") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_folders_hash_sees_names_and_bytes(tmp_path: Path) -> None:
    hashes = []
    for name, text in (("a", "x"), ("b", "x"), ("b/c", "x"), ("b/c", "y")):
        folder = tmp_path / str(len(hashes))
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
        hashes.append(content_hash(str(folder)))
    assert len(set(hashes)) == 4
