"""Writing of models: whole directories that appear at once or not at all, and the reward model's calibration."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from medrl.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CALIBRATION_FILE = "calibration.json"


@contextmanager
def atomic_dir(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields an empty directory beside `path` that takes its place when the block ends well, and vanishes otherwise.

    An existing `path` is a ModelError (before the block runs), unless `replace`; so is a full disk.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise ModelError(f"{path} exists already", remedy="choose another directory or remove this one")
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    work, old = path.with_name(f".{path.name}.{mark}.tmp"), path.with_name(f".{path.name}.{mark}.old")
    work.mkdir()
    try:
        yield work
        if replace and path.exists():
            path.rename(old)
        work.rename(path)
    except (OSError, SafetensorError) as error:
        if "No space left" not in str(error):
            raise
        raise ModelError(
            f"the disk is full: {path} was not written",
            got=str(error),
            remedy="free space there, or choose a directory on another disk",
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(old, ignore_errors=True)


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str | Path, *, replace: bool = False
) -> None:
    """Safetensors weights, config, generation config, tokenizer and chat template into `path`, all or nothing."""
    with atomic_dir(path, replace=replace) as work:
        write_model(model, tokenizer, work)


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """The files of `save_model`, into an existing directory."""
    cache = getattr(model.config, "use_cache", True)
    model.config.use_cache = True  # training turns the cache off; a model at work wants it
    try:
        model.save_pretrained(directory)
    finally:
        model.config.use_cache = cache
    tokenizer.save_pretrained(directory)


def save_calibration(path: str | Path, mean: float, std: float) -> None:
    """Store beside a reward model what makes its scores of SFT answers mean 0 and deviation 1."""
    Path(path, CALIBRATION_FILE).write_text(json.dumps({"mean": mean, "std": std}) + "\n")


def load_calibration(path: str | Path) -> tuple[float, float] | None:
    """(mean, std) of the reward model in `path`; None when it has no calibration.json."""
    file = Path(path, CALIBRATION_FILE)
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text())
        mean, std = float(values["mean"]), float(values["std"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} is damaged", limit='{"mean": number, "std": number > 0}', got=repr(error)) from None
    if not std > 0:
        raise ModelError(f"{file} cannot be used", limit="std > 0", got=f"std {std}")
    return mean, std
