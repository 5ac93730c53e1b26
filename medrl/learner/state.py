"""Saving and restoring what one engine holds: parameters, optimizer, schedule and random numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from medrl.errors import CheckpointError
from medrl.learner.engine import TrainEngine

_TAG = "state"


@contextmanager
def writing(directory: str | Path) -> Iterator[Path]:
    """Makes the directory and yields it. CheckpointError when it, or something in it, cannot be written."""
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        yield Path(directory)
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch.save's disk errors
            raise
        raise CheckpointError(
            f"the learner's state could not be written to {directory}", got=str(error).splitlines()[0],
            remedy="free disk space or choose another output_dir") from error


def save_state(engine: TrainEngine, directory: str | Path, *, frozen_too: bool, facts: dict[str, Any]) -> None:
    """Write `directory`/engine (DeepSpeed's files), rng_<rank>.pt and learner.json with `facts`. Collective."""
    directory = Path(directory)
    engine.deepspeed.save_checkpoint(str(directory / "engine"), tag=_TAG, exclude_frozen_parameters=not frozen_too)
    torch.save(_rng_state(), directory / f"rng_{engine.rank}.pt")
    if engine.rank == 0:
        (directory / "learner.json").write_text(json.dumps(_layout(engine) | facts, indent=1), encoding="utf-8")
    dist.barrier()


def load_state(engine: TrainEngine, directory: str | Path, *, frozen_too: bool) -> dict[str, Any]:
    """Restore what `save_state` wrote; returns its `facts`. Collective.

    Raises CheckpointError if there is nothing to restore, or if it was written with another ZeRO stage or, from ZeRO 1
    on, another number of ranks: optimizer state is cut by both. At ZeRO 0 it is whole, and any number may read it.
    """
    directory = Path(directory)
    path = directory / "learner.json"
    if not path.is_file():
        raise CheckpointError(f"no learner state in {directory}", remedy="resume from a complete checkpoint")
    facts = json.loads(path.read_text(encoding="utf-8"))
    layout = _layout(engine)
    saved = {key: facts.pop(key) for key in layout}
    if saved != layout and (saved["zero_stage"] or layout["zero_stage"]):
        raise CheckpointError(
            f"the checkpoint in {directory} was written by a learner of another shape",
            limit=str(saved), got=str(layout),
            remedy="resume with the same number of workers and the same zero_stage")
    loaded, _ = engine.deepspeed.load_checkpoint(str(directory / "engine"), tag=_TAG, load_module_strict=frozen_too)
    if loaded is None:
        raise CheckpointError(f"DeepSpeed found no state in {directory / 'engine'}",
                              remedy="resume from a complete checkpoint")
    _set_rng_state(torch.load(directory / f"rng_{engine.rank % saved['workers']}.pt", weights_only=True))
    dist.barrier()
    return facts


def _layout(engine: TrainEngine) -> dict[str, int]:
    return {"workers": engine.world, "zero_stage": engine.config.zero_stage}


def _rng_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else state


def _set_rng_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
