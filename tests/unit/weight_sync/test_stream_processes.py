"""Streams between real processes, over gloo groups of two in the place of NCCL's: one engine stays, one is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import save_file

from medrl.config.common import ModelConfig
from medrl.config.rollout import RolloutConfig
from medrl.errors import WeightSyncError, WorkerLost
from medrl.weight_sync.publisher import make_weights
from medrl.weight_sync.receiver import Receiver
from medrl.weight_sync.sender import send_to_all
from medrl.weight_sync.stream import notice_of
from tests.unit.weight_sync.test_receiver import BigramEngine
from tests.unit.weight_sync.test_stream import weights_of

LEARNER, STAYS, DIES = range(3)
ENGINES = (STAYS, DIES)
MINUTE = 60.0


class GlooChannel:
    """One end of a group of two."""

    device = torch.device("cpu")

    def __init__(self, group: Any) -> None:
        self._group = group

    def broadcast(self, tensor: torch.Tensor) -> None:
        try:
            dist.broadcast(tensor.view(-1).view(torch.uint8), LEARNER, group=self._group)
        except RuntimeError as error:  # gloo's word for a peer that is gone
            raise WorkerLost("the other end is gone", got=str(error)) from error

    def close(self) -> None:
        return  # a gloo broadcast cannot be broken off; it ends when its peer does


def tables(version: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(version)
    return {"table.weight": torch.randn(4, 4), "bias": torch.randn(3).bfloat16(), "a.ids": torch.arange(5),
            "z.last": torch.randn(2, 100_000)}


def mark(folder: Path, name: str, fact: Any) -> None:
    (folder / f"{name}.tmp").write_text(json.dumps(fact))
    (folder / f"{name}.tmp").rename(folder / name)


def process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=3)
    groups = {engine: dist.new_group([LEARNER, engine]) for engine in ENGINES}
    if rank == LEARNER:
        learn(folder, groups)
    else:
        receive(folder, rank, GlooChannel(groups[rank]))
    os._exit(0)  # past gloo's own end, which would wait for the killed


def learn(folder: Path, groups: dict[int, Any]) -> None:
    def over(version: int, engines: tuple[int, ...]) -> list[int]:
        time.sleep(0.02)
        return [n for n, engine in enumerate(engines) if (folder / f"{version}-{engine}").exists()]

    sent = {version: tables(version) for version in (1, 2, 3)}
    sent[2]["z.last"][1, 99_999] += 1e-3  # not what version 2's notice says
    for version, engines in ((1, ENGINES), (2, (STAYS,)), (3, (STAYS,))):
        connects = [partial(GlooChannel, groups[engine]) for engine in engines]
        broken = send_to_all(sent[version], connects, partial(over, version, engines), MINUTE)
        mark(folder, f"sent-{version}", broken)


class Dying(BigramEngine):
    """Killed after two tensors."""

    def load_weights(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        next(tensors), next(tensors)
        os.kill(os.getpid(), signal.SIGKILL)


def receive(folder: Path, rank: int, channel: GlooChannel) -> None:
    receiver = Receiver(ModelConfig(path=str(folder), dtype="float32"), RolloutConfig(dtype="float32"))
    engine = Dying() if rank == DIES else BigramEngine()
    for version in (1, 2, 3):
        notice = notice_of(weights_of(tables(version), version))
        try:
            report = receiver.take_stream(notice, lambda: channel, engine)
            fact = [report.version, report.fingerprint, receiver.version]
        except WeightSyncError as error:
            fact = [str(error), receiver.version]
        mark(folder, f"{version}-{rank}", fact)


@pytest.mark.heavy
def test_streams_between_processes_are_whole_or_refused_and_one_engine_s_death_is_its_own(tmp_path: Path) -> None:
    save_file(tables(0), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bigram"}))
    running = [mp.get_context("spawn").Process(target=process, args=(rank, tmp_path)) for rank in range(3)]
    for one in running:
        one.start()
    running[DIES].join(2 * MINUTE)
    mark(tmp_path, f"1-{DIES}", "dead")  # as Ray would say
    for one in running:
        one.join(2 * MINUTE)
    assert [one.exitcode for one in running] == [0, 0, -signal.SIGKILL]

    def fact(name: str) -> Any:
        return json.loads((tmp_path / name).read_text())

    prints = {version: make_weights(version, "full", tables(version), {}, weights_of(tables(version)).probe).fingerprint
              for version in (1, 3)}
    assert fact(f"1-{STAYS}") == [1, prints[1], 1]
    assert "damaged" in fact(f"2-{STAYS}")[0] and fact(f"2-{STAYS}")[1] is None
    assert fact(f"3-{STAYS}") == [3, prints[3], 3]
    told = fact("sent-1")  # the sender may have felt the death before it was told of it
    assert set(told) <= {"1"} and all("gone" in why for why in told.values())
    assert fact("sent-2") == fact("sent-3") == {}
