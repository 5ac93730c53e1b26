"""Copies in the registry: whole, read-only, and compared byte by byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medrl.errors import RegistryError
from medrl.registry.files import check_files, keep_copy
from medrl.registry.lineage import describe

pytestmark = pytest.mark.heavy
ROOT = Path(__file__).parents[3]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_copy_is_the_model_and_cannot_be_written(run: Path, tmp_path: Path) -> None:
    model = run / "merged"
    (model / "templates").mkdir()
    (model / "templates/tool.jinja").write_text("t")
    copy = keep_copy(model, describe(model), tmp_path / "store")
    assert contents(copy) == contents(model)
    assert {path.stat().st_mode & 0o777 for path in copy.rglob("*") if path.is_file()} == {0o444}
    assert {path.stat().st_mode & 0o777 for path in (copy, copy / "templates")} == {0o555}


def test_the_same_model_is_kept_once_and_another_one_beside_it(run: Path, tmp_path: Path) -> None:
    model, store = run / "merged", tmp_path / "store"
    first = keep_copy(model, describe(model), store)
    inode = (first / "model.safetensors").stat().st_ino
    assert keep_copy(model, describe(model), store) == first
    assert (first / "model.safetensors").stat().st_ino == inode
    (model / "generation_config.json").write_text('{"max_length": 5}')
    assert keep_copy(model, describe(model), store) != first
    assert len(list(store.iterdir())) == 2


def flip_a_bit(file: Path) -> None:
    """Change one bit of the last tensor, and leave size and time as they were."""
    status = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(("tamper", "message"), [
    (lambda d: flip_a_bit(d / "model.safetensors"), "the weights in"),
    (lambda d: flip_a_bit(d / "tokenizer.json"), "changed: tokenizer.json"),
    (lambda d: flip_a_bit(d / "chat_template.jinja"), "changed: chat_template.jinja"),
    (lambda d: (d / "tokenizer.json").unlink(), "changed: tokenizer.json"),
    (lambda d: (d / "modeling.py").write_text("import os"), "changed: modeling.py"),
    (lambda d: (d / "extra.safetensors").write_bytes(b""), "the weights in"),
    (lambda d: (d / "model.safetensors").unlink(), "the weights in"),
    (lambda d: d.rename(d.with_name("moved")), "is gone"),
])
def test_whatever_is_changed_is_found(run: Path, tmp_path: Path, tamper, message: str) -> None:
    record = describe(run / "merged")
    copy = keep_copy(run / "merged", record, tmp_path / "store")
    check_files(copy, record)
    copy.chmod(0o755)
    tamper(copy)
    with pytest.raises(RegistryError, match=message):
        check_files(copy, record)


def test_a_model_that_changes_while_it_is_copied_is_not_kept(run: Path, tmp_path: Path) -> None:
    record = describe(run / "merged")
    flip_a_bit(run / "merged/model.safetensors")
    with pytest.raises(RegistryError, match="the weights in"):
        keep_copy(run / "merged", record, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


def test_kill_at_every_moment_of_copying_leaves_a_whole_copy_or_none(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.registry.killed_copies", run / "merged", tmp_path / "stores"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    record, seen = describe(run / "merged"), []
    for number in range(int(done.stdout)):
        store = tmp_path / f"stores/{number}"
        copies = [path for path in store.iterdir() if not path.name.startswith(".")]
        for copy in copies:
            check_files(copy, record)
        seen.append(len(copies))
        copy = keep_copy(run / "merged", record, store)
        assert list(store.iterdir()) == [copy]  # and what was left over is cleared
        assert (copy / "model.safetensors").stat().st_mode & 0o777 == 0o444
    assert seen == sorted(seen) and set(seen) == {0, 1} and len(seen) > 20
