"""The hash of what a run reads."""

from __future__ import annotations

from pathlib import Path

from medrl.hashing import content_hash


def test_a_folders_hash_sees_names_and_bytes(tmp_path: Path) -> None:
    hashes = []
    for name, text in (("a", "x"), ("b", "x"), ("b/c", "x"), ("b/c", "y")):
        folder = tmp_path / str(len(hashes))
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
        hashes.append(content_hash(str(folder)))
    assert len(set(hashes)) == 4
