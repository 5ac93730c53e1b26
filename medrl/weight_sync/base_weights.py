"""The pristine base model on disk, as named tensors that are mapped into memory and never written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from medrl.errors import ModelError
from medrl.models.loading import check_model_dir


class BaseWeights:
    """Every tensor of a checkpoint by name, read when asked for."""

    def __init__(self, path: str) -> None:
        self._files: dict[str, safe_open] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in _weight_files(check_model_dir(path, tokenizer=False)):
            self._map(file)

    def _map(self, file: Path) -> None:
        try:
            mapped = safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} cannot be read", got=str(error), remedy="copy the model again") from error
        for name in mapped.keys():  # noqa: SIM118 - not a mapping
            self._files[name] = mapped
            self.shapes[name] = tuple(mapped.get_slice(name).get_shape())

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._files[name].get_tensor(name)


def _weight_files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    return [directory / name for name in sorted(names)]
