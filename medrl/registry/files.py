"""The models' files: copied once, read-only, and compared with their hashes whenever they are to be used."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from medrl.errors import RegistryError
from medrl.hashing import file_hash
from medrl.lora.identity import model_hash
from medrl.models.export import atomic_dir
from medrl.registry.record import Record


def other_files(model: Path) -> dict[str, str]:
    """Hash of every file of a model that its checksum leaves out, by its path in there."""
    files = (f for f in model.rglob("*") if f.is_file() and not (f.parent == model and f.suffix == ".safetensors"))
    return {file.relative_to(model).as_posix(): file_hash(file) for file in sorted(files)}


def check_files(path: Path, record: Record) -> None:
    """RegistryError unless the directory holds the registered files, byte for byte, and no other."""
    remedy = f"roll back if it is the champion; then remove {path} and register the model again"
    if not path.is_dir():
        raise RegistryError(f"the model in {path} is gone", remedy=remedy)
    others = other_files(path)
    changed = sorted(n for n in record.files.keys() | others.keys() if record.files.get(n) != others.get(n))
    if changed:
        raise RegistryError(f"the files in {path} are not those that were registered",
                            limit="the same files, unchanged", got=f"changed: {', '.join(changed[:5])}", remedy=remedy)
    found = model_hash(path, afresh=True)
    if found != record.checksum:
        raise RegistryError(f"the weights in {path} are not those that were registered",
                            limit=f"sha256 {record.checksum}", got=f"sha256 {found}", remedy=remedy)


def keep_copy(model: Path, record: Record, store: Path) -> Path:
    """Read-only copy of `model` below `store`, whole or not there; the same model is kept once.

    Raises RegistryError when the copy is not the model of the record, ModelError when the disk is full. The caller sees
    to it that no other process copies into `store` at the same time.
    """
    for leftover in store.glob(".*.tmp"):  # of a process that was killed while copying
        shutil.rmtree(leftover)
    others = hashlib.sha256(json.dumps(record.files, sort_keys=True).encode()).hexdigest()
    copy = store / f"{record.checksum[:16]}-{others[:8]}"
    if copy.exists():
        check_files(copy, record)
    else:
        with atomic_dir(copy) as work:
            for name in [*record.files, *(file.name for file in model.glob("*.safetensors"))]:
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(model / name, work / name)
            check_files(work, record)
    for path in [*copy.rglob("*"), copy]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return copy
