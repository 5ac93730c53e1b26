"""Checkpoints of the supervised stages: complete or not there, for `--resume` and for workers that are started again.

What trains, the best of it so far, and the trainer's own state (optimizer, schedule, random numbers, position in the
data) are in them. Every rank writes its share into the folder that rank 0 builds and seals.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from medrl import checkpoint
from medrl.errors import CheckpointError
from medrl.workers.supervised import Job, config_fingerprint

TRAINED = "trained.safetensors"


class Checkpointing(Trainer):
    """Saves and loads through medrl/checkpoint.py; to be put before a trainer class (`checkpointing`)."""

    job: Job

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if dist.get_rank() == 0:
            keep_last, meta = self.job.config.checkpoint.keep_last, {"config": config_fingerprint(self.job.config)}
            checkpoint.save(self.job.checkpoints, self.state.global_step, self._write, keep_last, meta)
        else:
            self._write(None)

    def _write(self, folder: Path | None) -> None:
        """On every rank; `folder` is known on rank 0."""
        where = [folder]
        dist.broadcast_object_list(where, src=0)
        target = str(where[0])
        if dist.get_rank() == 0:
            self.state.save_to_json(os.path.join(target, TRAINER_STATE_NAME))
            if not self.is_deepspeed_enabled:  # which saves weights itself, as it shards them
                save_trained(self.model, Path(target) / TRAINED)
            if self.job.best.exists():
                shutil.copyfile(self.job.best, Path(target) / self.job.best.name)
        self._save_optimizer_and_scheduler(target)
        self._save_rng_state(target)
        dist.barrier()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained_(self.model, Path(resume_from_checkpoint) / TRAINED)


def checkpointing(trainer_class: type[Trainer], job: Job) -> type[Trainer]:
    """`trainer_class` with the checkpoints of `job`."""
    return type(f"Checkpointing{trainer_class.__name__}", (Checkpointing, trainer_class), {"job": job})


def newest(job: Job) -> tuple[str, TrainerState] | None:
    """Folder and trainer state of the newest complete checkpoint, the same on every rank; None when there is none.

    The best weights are as they were then.
    """
    folders: list[Path | None] = [None]
    if dist.get_rank() == 0:
        found = checkpoint.latest(job.checkpoints)
        job.best.unlink(missing_ok=True)
        if found and (best := found[1] / job.best.name).exists():
            shutil.copyfile(best, job.best)
        folders = [found[1] if found else None]
    dist.broadcast_object_list(folders, src=0)
    if folders[0] is None:
        return None
    return str(folders[0]), TrainerState.load_from_json(str(folders[0] / TRAINER_STATE_NAME))


def save_trained(model: Any, path: Path) -> None:
    """Write every trainable tensor; the file is complete or not there."""
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in _trained(model)}
    temporary = path.with_name(f".tmp-{path.name}")
    save_file(tensors, temporary)
    os.replace(temporary, path)


def load_trained_(model: Any, path: Path) -> None:
    """Put the tensors of `save_trained` back. CheckpointError unless they are exactly those that train now."""
    tensors, current = load_file(path), dict(_trained(model))
    different = {name: tensor.shape for name, tensor in tensors.items()} != {n: p.shape for n, p in current.items()}
    if different:
        raise CheckpointError(
            f"{path} holds other tensors than those that train", limit=f"{len(current)} tensors",
            got=", ".join(sorted(tensors.keys() ^ current.keys())[:5]) or "other shapes",
            remedy="resume with the libraries and the model that the run was started with")
    with torch.no_grad():
        for name, parameter in current.items():
            parameter.copy_(tensors[name])


def _trained(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
