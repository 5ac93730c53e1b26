from __future__ import annotations

import json

import torch
from safetensors.torch import load_file

from medrl.models.shards import ShardWriter

TENSORS = {f"t{i}": torch.full((i + 1, 3), float(i)) for i in range(6)}  # 12 bytes a row


def write(folder, shard_bytes):
    writer = ShardWriter(folder, shard_bytes)
    for name, tensor in TENSORS.items():
        writer.add(name, tensor)
    writer.close()
    return sorted(file.name for file in folder.iterdir())


def test_one_file_needs_no_index(tmp_path):
    assert write(tmp_path, 10_000) == ["model.safetensors"]
    stored = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in TENSORS.items()) and len(stored) == len(TENSORS)


def test_no_shard_is_larger_than_asked_unless_one_tensor_is(tmp_path):
    files = write(tmp_path, 60)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = {file: load_file(tmp_path / file) for file in files if file.endswith(".safetensors")}
    assert [list(tensors) for _, tensors in sorted(shards.items())] == [["t0", "t1"], ["t2"], ["t3"], ["t4"], ["t5"]]
    assert index["weight_map"] == {name: file for file, tensors in shards.items() for name in tensors}
    assert index["metadata"] == {"total_size": 12 * 21}
    assert sorted(shards) == [f"model-{i:05d}-of-00005.safetensors" for i in range(1, 6)]
