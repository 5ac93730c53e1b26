"""Whether a version can take another's place in an engine that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from medrl.errors import ModelError
from medrl.lora.identity import VOLATILE
from medrl.registry.files import check_files
from serve.swap.messages import Target

SETTINGS = ("config.json", "generation_config.json")
HARMLESS = ("README.md", ".gitattributes", "merge.json", "model.safetensors.index.json")  # no part in an answer


def checked_path(target: Target) -> str:
    """The directory of a version whose files are those that were registered. RegistryError when they are not."""
    check_files(target.registered.path, target.registered.record)
    return str(target.registered.path)


def check_loadable(target: Target, loaded: Target) -> None:
    """Read every file of `target` and compare. An engine takes new weights; nothing else of it can change.

    Raises RegistryError when the files are not those that were registered, ModelError when the architecture, the
    tokenizer, the chat template or the sampling defaults are not those of `loaded`.
    """
    checked_path(target)
    new, old = target.registered, loaded.registered
    names = new.record.files.keys() | old.record.files.keys()
    changed = [name for name in sorted(names) if name not in HARMLESS
               and new.record.files.get(name) != old.record.files.get(name)
               and not (name in SETTINGS and _settings(new.path / name) == _settings(old.path / name))]
    if not changed and _shapes(new.path) != _shapes(old.path):
        changed = ["names and shapes of the weights"]
    if changed:
        raise ModelError(f"version {target.version.number} differs from version {loaded.version.number} in more than "
                         "its weights", got=", ".join(changed), remedy="restart the service to serve it")


def _settings(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    return {name: value for name, value in json.loads(file.read_text()).items() if name not in VOLATILE}


def _shapes(model: Path) -> dict[str, list[int]]:
    """Shape of every tensor. One that is not in the files would silently keep its old weights."""
    shapes = {}
    for file in model.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as opened:
            shapes |= {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    return shapes
