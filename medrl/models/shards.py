"""Writing of a checkpoint tensor by tensor, with no more than one shard in memory."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

INDEX_FILE = "model.safetensors.index.json"


class ShardWriter:
    """Sharded safetensors files as transformers reads them: `add` every tensor, then `close`."""

    def __init__(self, directory: Path, shard_bytes: int) -> None:
        self.directory, self.shard_bytes = directory, shard_bytes
        self.shards: list[list[str]] = []  # the names in each file written so far
        self.total_bytes = 0
        self._held: dict[str, Tensor] = {}
        self._held_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take over `tensor`; it is written as soon as it and those before it fill a shard."""
        size = tensor.numel() * tensor.element_size()
        if self._held and self._held_bytes + size > self.shard_bytes:
            self._write()
        self._held[name] = tensor.contiguous()
        self._held_bytes += size

    def close(self) -> None:
        """Write what is left, give the files their final names, and the index if there are several."""
        self._write()
        count = len(self.shards)
        files = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"
                 for i in range(count)]
        for i, file in enumerate(files):
            self._part(i).rename(self.directory / file)
        if count > 1:
            weight_map = {name: file for names, file in zip(self.shards, files, strict=True) for name in names}
            index = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
            (self.directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _write(self) -> None:
        save_file(self._held, self._part(len(self.shards)), metadata={"format": "pt"})
        self.shards.append(list(self._held))
        self.total_bytes += self._held_bytes
        self._held, self._held_bytes = {}, 0

    def _part(self, number: int) -> Path:
        return self.directory / f"{number}.part"
