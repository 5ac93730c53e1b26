"""A checkpoint on disk as named tensors, read one at a time and never written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from medrl.errors import ModelError
from medrl.models.loading import check_model_dir


class StoredWeights:
    """Every tensor of a checkpoint by name, read when asked for.

    `mapped`: tensors are views of the files, mapped into memory; else each is read into memory of its own, which is
    free again when the tensor is.
    """

    def __init__(self, path: str, *, mapped: bool = True) -> None:
        self._files: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in _weight_files(check_model_dir(path, tokenizer=False)):
            self._open(file, "mmap" if mapped else "pread")

    def _open(self, file: Path, backend: str) -> None:
        opener: Any = safe_open  # its annotations do not know the backend
        try:
            opened = opener(file, framework="pt", backend=backend)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} cannot be read", got=str(error), remedy="copy the model again") from error
        for name in opened.keys():  # noqa: SIM118 - not a mapping
            self._files[name] = opened
            self.shapes[name] = tuple(opened.get_slice(name).get_shape())

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._files[name].get_tensor(name)


def _weight_files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    return [directory / name for name in sorted(names)]
