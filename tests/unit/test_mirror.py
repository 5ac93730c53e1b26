"""Copies of checkpoints on other storage: whole or not there, newest first, and what happens when the storage fails."""

from __future__ import annotations

import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from medrl import checkpoint
from medrl.errors import CheckpointError, ConfigError
from medrl.mirror import Mirror, mirrored


class Flaky(LocalFileSystem):
    """A folder that refuses the first `failures` files it is given, and waits on `gate` before each."""

    protocol = "flaky"
    cachable = False
    failures = 0
    gate: threading.Event | None = None

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return LocalFileSystem._strip_protocol(str(path).removeprefix("flaky://"))

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        if Flaky.gate:
            Flaky.gate.wait()
        if Flaky.failures:
            Flaky.failures -= 1
            raise OSError("503 slow down")
        super().put_file(lpath, rpath, **options)


fsspec.register_implementation("flaky", Flaky, clobber=True)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    Flaky.failures, Flaky.gate = 0, None


def save(root: Path, step: int, keep_last: int = 5) -> Path:
    def write(folder: Path) -> None:
        (folder / "policy").mkdir()
        (folder / "policy" / "weights.bin").write_bytes(bytes([step]) * 1000)
        (folder / "state.json").write_text(f'{{"step": {step}}}')

    return checkpoint.save(root, step, write, keep_last, {"config": {}})


def mirror(storage: str, root: Path, *, resume: bool = False, keep_last: int = 2, timeout: float = 5.0) -> Mirror:
    return Mirror(storage, "run", root, keep_last=keep_last, timeout=timeout, resume=resume, report=REPORTED.append)


REPORTED: list[str] = []


def copies(storage: str) -> list[str]:
    fs, base = fsspec.core.url_to_fs(storage)
    return sorted(path.rpartition("/")[2] for path in fs.glob(f"{base}/run/*/step-*"))


@pytest.fixture(params=["memory://store", "folder", "file"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    where = {"folder": str(tmp_path / "store"), "file": f"file://{tmp_path}/store"}
    return where.get(request.param, request.param)


def test_a_run_goes_on_elsewhere_from_the_storage_alone(storage: str, tmp_path: Path) -> None:
    first = mirror(storage, tmp_path / "a")
    for step in (2, 4, 6):
        save(tmp_path / "a", step)
        first.copy_newest()
    assert copies(storage) == ["step-000004", "step-000006"]  # keep_last
    mirror(storage, tmp_path / "b", resume=True).fetch()
    found = checkpoint.latest(tmp_path / "b")
    assert found and found[0] == 6 and (found[1] / "policy" / "weights.bin").read_bytes() == bytes([6]) * 1000
    assert not list((tmp_path / "b").glob(f"{checkpoint.TEMPORARY}*"))


def test_what_is_here_and_newer_stays(storage: str, tmp_path: Path) -> None:
    first = mirror(storage, tmp_path / "a")
    save(tmp_path / "a", 2)
    first.copy_newest()
    save(tmp_path / "a", 3)
    again = mirror(storage, tmp_path / "a", resume=True)
    again.fetch()
    assert [step for step, _ in checkpoint.steps(tmp_path / "a")] == [2, 3]
    again.copy_newest()
    assert copies(storage) == ["step-000002", "step-000003"]
    assert again.folder == first.folder


def test_a_run_that_starts_anew_leaves_the_copies_of_the_last_alone(storage: str, tmp_path: Path) -> None:
    first = mirror(storage, tmp_path / "a")
    save(tmp_path / "a", 9)
    first.copy_newest()
    time.sleep(1.1)  # folders are named by the second
    second = mirror(storage, tmp_path / "b")
    save(tmp_path / "b", 1)
    second.copy_newest()
    assert second.folder != first.folder
    mirror(storage, tmp_path / "c", resume=True).fetch()
    assert [step for step, _ in checkpoint.steps(tmp_path / "c")] == [1]  # of the newest run, not the highest step


def _flip(folder: Path) -> None:
    data = bytearray((folder / "policy" / "weights.bin").read_bytes())
    data[500] ^= 1
    (folder / "policy" / "weights.bin").write_bytes(data)


DAMAGES = {
    "policy/weights.bin was changed since it was written": _flip,
    "it was never copied as a whole": lambda folder: (folder / "policy" / "weights.bin").unlink(),
    "manifest.json cannot be read": lambda folder: (folder / "manifest.json").write_text("{"),
    "never copied as a whole": lambda folder: (folder / "manifest.json").unlink(),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_damaged_copy_is_named_and_the_one_before_is_used(reason: str, tmp_path: Path) -> None:
    storage = str(tmp_path / "store")
    first = mirror(storage, tmp_path / "a")
    for step in (2, 4):
        save(tmp_path / "a", step)
        first.copy_newest()
    DAMAGES[reason](Path(first.folder) / "step-000004")
    REPORTED.clear()
    mirror(storage, tmp_path / "b", resume=True).fetch()
    assert [step for step, _ in checkpoint.steps(tmp_path / "b")] == [2]
    assert any("step-000004" in line and reason in line for line in REPORTED), REPORTED


@pytest.mark.parametrize("left", ["half a copy", "a damaged one"])
def test_what_a_run_did_not_continue_from_takes_no_place_of_a_good_copy(left: str, tmp_path: Path) -> None:
    storage = str(tmp_path / "store")
    first = mirror(storage, tmp_path / "a", keep_last=2)
    for step in (6, 9):
        save(tmp_path / "a", step)
        first.copy_newest()
    broken = Path(first.folder) / "step-000009"
    (broken / "manifest.json").unlink() if left == "half a copy" else _flip(broken)
    again = mirror(storage, tmp_path / "b", resume=True, keep_last=1)
    again.fetch()
    save(tmp_path / "b", 8)
    again.copy_newest()
    assert copies(storage) == ["step-000008"]
    mirror(storage, tmp_path / "c", resume=True).fetch()
    assert [step for step, _ in checkpoint.steps(tmp_path / "c")] == [8]


def test_a_manifest_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", 1)
    listed = {"step": 1, "meta": {}, "files": {"../../escaped": {"bytes": 1, "sha256": ""}}}
    checkpoint._write_manifest(folder, listed)
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        checkpoint.file_names(folder)
    assert "../../escaped" in caught.value.got


def test_a_storage_that_refuses_for_a_while_gets_its_copy(tmp_path: Path) -> None:
    Flaky.failures = 3
    save(tmp_path / "a", 2)
    mirror(f"flaky://{tmp_path}/store", tmp_path / "a", timeout=30.0).copy_newest()
    assert Flaky.failures == 0 and copies(str(tmp_path / "store")) == ["step-000002"]


def test_training_goes_on_while_copies_are_made_and_ends_with_the_last_one(tmp_path: Path) -> None:
    Flaky.gate = threading.Event()
    with mirrored(mirror(f"flaky://{tmp_path}/store", tmp_path / "a", timeout=30.0)):
        for step in (1, 2, 3):
            save(tmp_path / "a", step, keep_last=1)  # what is being copied may vanish meanwhile
            time.sleep(1.2)
        assert copies(str(tmp_path / "store")) == ["step-000001"] or not copies(str(tmp_path / "store"))
        Flaky.gate.set()
    assert "step-000003" in copies(str(tmp_path / "store"))
    mirror(str(tmp_path / "store"), tmp_path / "b", resume=True).fetch()
    assert [step for step, _ in checkpoint.steps(tmp_path / "b")] == [3]


def test_a_last_copy_that_fails_is_an_error_after_the_run(tmp_path: Path) -> None:
    Flaky.failures = 10_000
    done = False
    with pytest.raises(CheckpointError, match="could not be copied") as caught, mirrored(
            mirror(f"flaky://{tmp_path}/store", tmp_path / "a", timeout=1.0)):
        save(tmp_path / "a", 2)
        done = True
    assert done and "503 slow down" in caught.value.got and checkpoint.latest(tmp_path / "a")


def test_what_ended_the_run_is_what_is_raised(tmp_path: Path) -> None:
    Flaky.failures = 10_000
    REPORTED.clear()
    with pytest.raises(KeyboardInterrupt), mirrored(
            mirror(f"flaky://{tmp_path}/store", tmp_path / "a", timeout=1.0)):
        save(tmp_path / "a", 2)
        raise KeyboardInterrupt
    assert any("503 slow down" in line for line in REPORTED)


def test_a_storage_that_hangs_does_not_hold_up_the_run_for_ever(tmp_path: Path) -> None:
    Flaky.gate = threading.Event()
    save(tmp_path / "a", 2)
    with pytest.raises(CheckpointError, match="does not answer"):
        mirror(f"flaky://{tmp_path}/store", tmp_path / "a", timeout=0.2).finish()
    Flaky.gate.set()


@pytest.mark.parametrize("url", ["nosuch://bucket/runs", "s3://bucket/runs"])
def test_a_storage_that_is_not_known_here_is_refused(url: str, tmp_path: Path) -> None:
    if url.startswith("s3") and find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(ConfigError, match="checkpoint.storage") as caught:
        mirror(url, tmp_path)
    assert url in caught.value.got
