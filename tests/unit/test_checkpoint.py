"""A checkpoint is whole or not there, whatever happens while it is written."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrl import checkpoint
from medrl.errors import CheckpointError, WorkerError

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]


def content(step: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "policy").mkdir()
        (folder / "policy/weights").write_bytes(bytes([step % 256]) * 1000)
        (folder / "rng").write_bytes(b"r" * 10)

    return write


def save(root: Path, step: int, keep_last: int = 2, **meta: object) -> Path:
    return checkpoint.save(root, step, content(step), keep_last, meta)


def steps(root: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in root.glob("step-*"))


def latest_step(root: Path) -> int | None:
    found = checkpoint.latest(root, report=lambda _: None)
    return found and found[0]


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    meta = {"kl": {"coef": 0.1 + 0.2}, "order": [3, 1, 2], "提示": "咳嗽", "nothing": None}
    path = save(tmp_path / "new", 12, **meta)
    assert path.name == "step-000012"
    found = checkpoint.latest(tmp_path / "new")
    assert found == (12, path, meta)
    assert (path / "policy/weights").read_bytes() == bytes([12]) * 1000
    assert checkpoint.load_meta(path) == meta


def test_the_manifest_has_the_sha256_of_every_other_file(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    listed = json.loads((path / "manifest.json").read_text())["files"]
    command = ["sha256sum", "policy/weights", "rng"]
    lines = subprocess.run(command, cwd=path, capture_output=True, text=True, check=True).stdout.splitlines()
    counted = {line.split()[1]: line.split()[0] for line in lines}
    assert counted == {name: entry["sha256"] for name, entry in listed.items()}


def test_none_there(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "missing") is None


def test_steps_are_compared_as_numbers(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        save(tmp_path, step)
    assert latest_step(tmp_path) == 1_000_000


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8, unique=True).map(sorted), st.integers(1, 5))
@settings(max_examples=15)
def test_the_newest_stay(tmp_path_factory: pytest.TempPathFactory, saved: list[int], keep_last: int) -> None:
    root = tmp_path_factory.mktemp("run")
    for step in saved:
        save(root, step, keep_last)
    assert steps(root) == saved[-keep_last:]
    assert latest_step(root) == saved[-1]


def test_a_failed_save_prunes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)

    def fail(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise WorkerError("rank 1 died")

    with pytest.raises(WorkerError, match="rank 1 died"):
        checkpoint.save(tmp_path, 3, fail, 1, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]
    assert latest_step(tmp_path) == 2


def damage_byte(path: Path) -> None:
    data = bytearray((path / "policy/weights").read_bytes())
    data[500] ^= 1
    (path / "policy/weights").write_bytes(data)


def damage_meta(path: Path) -> None:
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"coef": 0.25', '"coef": 0.75'))


DAMAGES = [
    (damage_byte, "policy/weights was changed since it was written"),
    (damage_meta, "manifest.json cannot be read (its checksum does not match)"),
    (lambda path: (path / "policy/weights").write_bytes(b"short"), "policy/weights has 5 bytes, 1000 were written"),
    (lambda path: (path / "rng").unlink(), "rng is missing"),
    (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
    (lambda path: (path / "manifest.json").write_bytes(b""), "manifest.json cannot be read"),
    (lambda path: (path / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_a_damaged_one_is_skipped(tmp_path: Path, damage: Callable[[Path], object], reason: str) -> None:
    save(tmp_path, 1, coef=0.25)
    damaged = save(tmp_path, 2, coef=0.25)
    damage(damaged)
    said: list[str] = []
    found = checkpoint.latest(tmp_path, said.append)
    assert found is not None and found[0] == 1
    assert len(said) == 1 and said[0].startswith(f"skipping checkpoint {damaged}: {reason}")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_meta(damaged)
    assert caught.value.got.startswith(reason)


def test_the_reason_is_printed_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (save(tmp_path, 1) / "rng").unlink()
    assert checkpoint.latest(tmp_path) is None
    assert capsys.readouterr().out == f"skipping checkpoint {tmp_path}/step-000001: rng is missing\n"


def test_a_damaged_one_never_costs_a_good_one(tmp_path: Path) -> None:
    """Resumed from 1 because 6 is damaged, with keep_last 1: what counts is what can be resumed from."""
    save(tmp_path, 1, keep_last=2)
    damage_byte(save(tmp_path, 6, keep_last=2))
    save(tmp_path, 4, keep_last=1)
    assert latest_step(tmp_path) == 4
    save(tmp_path, 6, keep_last=1)  # takes the place of the damaged one
    assert steps(tmp_path) == [6]
    assert latest_step(tmp_path) == 6


def test_a_complete_one_of_the_same_step_is_kept(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    before = (path / "manifest.json").stat().st_mtime_ns

    def unexpected(folder: Path) -> None:
        raise AssertionError("written twice")

    assert checkpoint.save(tmp_path, 3, unexpected, 1, {}) == path
    assert (path / "manifest.json").stat().st_mtime_ns == before


def test_kill_at_every_moment_of_saving(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.killed_saves", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    runs = int(done.stdout)
    assert runs > 25  # each write, flush, rename and removal is a moment of its own
    survivors = []
    for number in range(runs):
        found = checkpoint.latest(tmp_path / str(number), report=pytest.fail)
        assert found is not None, f"killed after {number} operations: no checkpoint is left"
        step, path, meta = found
        assert meta == {"step": step}
        for name in ("policy/weights", "policy/optimizer", "rng"):
            assert (path / name).read_bytes() == bytes([step]) * 300_000
        survivors.append(step)
        for every in (tmp_path / str(number)).glob("step-*"):
            checkpoint.load_meta(every)  # what bears a checkpoint's name is one
    assert survivors == sorted(survivors) and set(survivors) == {1, 2}  # the old one until the new one is whole


def test_leftovers_of_a_killed_save_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-000001").mkdir(parents=True)
    (tmp_path / ".tmp-step-000001/half").write_bytes(b"x")
    assert checkpoint.latest(tmp_path) is None
    save(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def disk_full_by_limit(folder: Path) -> None:
    """More than this process may write to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    try:
        (folder / "weights").write_bytes(b"x" * (256 << 10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def disk_full_by_device(folder: Path) -> None:
    """The kernel's own word for a full disk."""
    (folder / "weights").write_bytes(b"x" * 1000)
    with open("/dev/full", "wb") as file:
        file.write(b"x" * 100_000)


def disk_full_in_words(folder: Path) -> None:
    """As safetensors and other processes report it."""
    raise RuntimeError(f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")


@pytest.mark.parametrize("write", [disk_full_by_limit, disk_full_by_device, disk_full_in_words])
def test_a_full_disk(tmp_path: Path, write: Callable[[Path], None]) -> None:
    save(tmp_path, 1)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.save(tmp_path, 2, write, 1, {})
    assert caught.value.got == "the disk is full"
    assert "free some space" in caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert latest_step(tmp_path) == 1


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot save the checkpoint of step 1"):
        save(tmp_path / "file", 1)


def test_meta_that_is_no_json_is_found_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save(tmp_path / "root", 1, bad=object())
    assert not (tmp_path / "root").exists()


def test_the_same_config_may_resume() -> None:
    checkpoint.check_config({"a": {"b": [1, 2]}, "c": None}, {"c": None, "a": {"b": [1, 2]}})


def test_another_config_may_not_and_every_difference_is_named() -> None:
    saved = {"model": {"path": "sft", "dtype": "float32"}, "lora": {"rank": 8}, "seed": 0}
    current = {"model": {"path": "base", "dtype": "float32"}, "lora": None, "seed": 0, "steps": 7}
    with pytest.raises(CheckpointError) as caught:
        checkpoint.check_config(saved, current)
    assert caught.value.got == (
        "lora: not set → None; lora.rank: 8 → not set; model.path: sft → base; steps: not set → 7")
