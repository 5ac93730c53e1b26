"""Which base an adapter belongs to: its class and the hash of its weights (R11)."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrl.errors import AdapterError
from medrl.hashing import file_hash
from medrl.models.loading import local_dir

if TYPE_CHECKING:
    from torch import nn

WEIGHTS_FILE = "adapter_model.safetensors"
RECORD_FILE = "medrl_adapter.json"
MERGE_FILE = "merge.json"  # beside a merged model: what went into it, and the checks it passed
VOLATILE = ("transformers_version", "_name_or_path", "use_cache")  # of config.json: says nothing about the weights


def model_hash(path: str | Path, *, afresh: bool = False) -> str:
    """sha256 over a model directory's config and every byte of its safetensors files.

    Files that have kept their sizes and times are read once a process, unless `afresh`.
    """
    directory = local_dir(str(path))
    files = sorted(directory.glob("*.safetensors"))
    hash_of = _hash.__wrapped__ if afresh else _hash
    return hash_of(directory, tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files))


@lru_cache(maxsize=32)
def _hash(directory: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    """`files` (name, bytes, time) make the cached value stale when one of them is written."""
    digest = hashlib.sha256()
    config = json.loads((directory / "config.json").read_text())
    digest.update(json.dumps({k: v for k, v in config.items() if k not in VOLATILE}, sort_keys=True).encode())
    for name, *_ in files:
        digest.update(name.encode())
        with (directory / name).open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def adapter_hash(path: str | Path) -> str:
    """sha256 of an adapter's weights."""
    return file_hash(Path(path, WEIGHTS_FILE))


def adapter_record(base: nn.Module, base_path: str | None, manifest: list[dict]) -> dict[str, Any]:
    """What is written beside an adapter. A base that was never on disk has no hash."""
    return {
        "base_class": type(base).__name__,
        "base_path": base_path,
        "base_sha256": model_hash(base_path) if base_path else None,
        "manifest": manifest,
    }


def read_record(path: str | Path) -> dict[str, Any] | None:
    """The record beside an adapter; None for an adapter that medrl did not write."""
    file = Path(path, RECORD_FILE)
    return json.loads(file.read_text()) if file.is_file() else None


def check_base(path: str | Path, base: nn.Module, base_path: str | None) -> bool:
    """Whether the record beside adapter `path` proves that it belongs to this base; False when it says nothing.

    Raises AdapterError when it proves the opposite.
    """
    record = read_record(path)
    if record is None:
        return False
    if record["base_class"] != type(base).__name__:
        raise AdapterError(
            f"the adapter in {path} was made for another class of model",
            limit=record["base_class"],
            got=type(base).__name__,
            remedy="use the model it was trained on",
        )
    if record["base_sha256"] is None or base_path is None:
        return False
    found = model_hash(base_path)
    if record["base_sha256"] != found:
        raise AdapterError(
            f"the adapter in {path} was made for another base than {base_path}",
            limit=f"{record['base_path']} (sha256 {record['base_sha256'][:12]}…)",
            got=f"sha256 {found[:12]}…",
            remedy="use the model it was trained on",
        )
    return True


def check_adapter_of(base_path: str, adapter: str | Path) -> None:
    """AdapterError unless the adapter's record says that it was made for the base in `base_path`."""
    record = read_record(adapter)
    if record is None or record["base_sha256"] != model_hash(base_path):
        raise AdapterError(
            f"the adapter in {adapter} was not made for {base_path}",
            limit="the sha256 of this base in its record",
            got="no record" if record is None else f"{record['base_path']} (sha256 {str(record['base_sha256'])[:12]}…)",
            remedy="use the base it was trained on, or merge it there first",
        )
