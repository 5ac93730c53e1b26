"""Checkpoints that are whole or not there.

A checkpoint is a folder `step-000012` whose `manifest.json` lists the sha256 of every other file. It is built under a
temporary name, flushed to disk, and renamed when complete, so a kill or a full disk at any moment leaves the earlier
ones as they were.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medrl.errors import CheckpointError
from medrl.hashing import file_hash

MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Found = tuple[int, Path, dict[str, Any]]  # step, folder and meta of a complete checkpoint
FULL_BYTES = 1 << 20  # a disk with less room than this is full


def save(root: str | Path, step: int, write: Callable[[Path], None], keep_last: int, meta: Mapping[str, Any]) -> Path:
    """Make the checkpoint of `step`: `write(folder)` fills it, `meta` (plain JSON values) goes into its manifest.

    Older checkpoints beyond `keep_last` are removed, but only once the new one is complete. A complete checkpoint of
    the same step is left as it is. Raises CheckpointError when the disk is full or cannot be written to.
    """
    root = Path(root)
    final = root / f"step-{step:06d}"
    if not final.exists() or _defect(final) is not None:
        _write_new(root, final, step, write, json.loads(json.dumps(meta)))
    _prune(root, step, keep_last)
    return final


def latest(root: str | Path, report: Callable[[str], None] = print) -> Found | None:
    """Step, folder and meta of the newest complete checkpoint, or None. Damaged ones are skipped, with the reason."""
    for step, path in reversed(steps(Path(root))):
        defect = _defect(path)
        if defect is None:
            return step, path, load_meta(path)
        report(f"skipping checkpoint {path}: {defect}")
    return None


def find(
    root: str | Path, check: Callable[[Mapping[str, Any]], None], report: Callable[[str], None] = print
) -> Found | None:
    """The newest complete checkpoint under `root`; None when there is none at all.

    `check(config)` raises CheckpointError when the run may not continue from one that was saved with `config`.
    """
    found = latest(root, report)
    if found is None:
        report(f"no checkpoint under {root}: starting from step 0")
        return None
    step, path, meta = found
    check(meta["config"])
    report(f"continuing after step {step} from {path}")
    return found


def load_meta(path: str | Path) -> dict[str, Any]:
    """The meta of the checkpoint in `path`. Raises CheckpointError if anything in it is missing or changed."""
    defect = _defect(Path(path))
    if defect is not None:
        raise CheckpointError(f"{path} cannot be used", limit="a complete checkpoint", got=defect,
                              remedy="continue from another checkpoint of the run")
    return _read_manifest(Path(path))["meta"]


def file_names(path: Path) -> list[str]:
    """The files that the manifest of the checkpoint in `path` lists. Raises CheckpointError if it cannot be read."""
    try:
        names = list(_read_manifest(path)["files"])
        if outside := [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]:
            raise ValueError(f"it lists {outside[0]}, which is not below it")
        return names
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be used", limit="a complete checkpoint",
                              got=f"{MANIFEST} cannot be read ({error})") from None


def check_config(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """CheckpointError naming every key in which the config of a resumed run differs from the saved one."""
    before, now = dict(_flat(saved)), dict(_flat(current))
    keys = sorted(k for k in before.keys() | now.keys() if before.get(k, ...) != now.get(k, ...))
    if keys:
        changes = [f"{k}: {before.get(k, 'not set')} → {now.get(k, 'not set')}" for k in keys]
        raise CheckpointError(
            "the checkpoint belongs to a run with another config", limit="the settings it was saved with",
            got="; ".join(changes), remedy="undo these changes, or start a new run without --resume")


def _write_new(root: Path, final: Path, step: int, write: Callable[[Path], None], meta: dict[str, Any]) -> None:
    building = root / f"{TEMPORARY}{final.name}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(f"{TEMPORARY}*"):  # of a process that was killed while saving
            shutil.rmtree(leftover)
        building.mkdir()
        write(building)
        _write_manifest(building, {"step": step, "meta": meta, "files": _checksums(building)})
        for path in sorted(building.rglob("*"), reverse=True):  # a folder after what it holds
            _fsync(path)
        _fsync(building)
        if final.exists():  # a damaged one of this step
            shutil.rmtree(final)
        os.rename(building, final)
        _fsync(root)
    except BaseException as error:
        full = _is_disk_full(error, root)
        shutil.rmtree(building, ignore_errors=True)
        if full or isinstance(error, OSError):
            raise CheckpointError(
                f"cannot save the checkpoint of step {step} under {root}",
                got="the disk is full" if full else str(error),
                remedy="free some space or lower checkpoint.keep_last; --resume continues from the newest checkpoint",
            ) from error
        raise


def _is_disk_full(error: BaseException, root: Path) -> bool:
    """Writers in other languages and other processes report a full disk in words only, or not at all."""
    if isinstance(error, OSError) and error.errno in DISK_FULL or os.strerror(errno.ENOSPC) in str(error):
        return True
    return isinstance(error, Exception) and root.exists() and shutil.disk_usage(root).free < FULL_BYTES


def _prune(root: Path, step: int, keep_last: int) -> None:
    # Later steps than this one's are damaged, or the run would have continued from them; they do not count.
    older = [path for number, path in steps(root) if number < step]
    for path in older[: max(0, len(older) - (keep_last - 1))]:
        doomed = root / f"{TEMPORARY}{path.name}"
        os.rename(path, doomed)  # a kill half-way must not leave half a checkpoint
        shutil.rmtree(doomed)


def steps(root: Path) -> list[tuple[int, Path]]:
    """Step and folder of the checkpoints in `root`, damaged ones among them, the newest last."""
    found = [(re.fullmatch(r"step-(\d{6,})", path.name), path) for path in root.glob("step-*")]
    return sorted((int(match[1]), path) for match, path in found if match)


def _defect(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        files = _read_manifest(path)["files"]
        for name, expected in files.items():
            if (size := (path / name).stat().st_size) != expected["bytes"]:
                return f"{name} has {size} bytes, {expected['bytes']} were written"
        for name, expected in files.items():
            if file_hash(path / name) != expected["sha256"]:
                return f"{name} was changed since it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    return None


def _checksums(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_hash(path)} for path in files
    }


def _write_manifest(folder: Path, content: dict[str, Any]) -> None:
    sealed = {"sha256": _seal(content)} | content
    (folder / MANIFEST).write_text(json.dumps(sealed, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _read_manifest(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if content.pop("sha256") != _seal(content):
        raise ValueError("its checksum does not match")
    return content


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, values
