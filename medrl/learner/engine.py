"""One DeepSpeed engine on one rank: set-up, gradient accumulation, the optimizer step, sums over ranks."""

from __future__ import annotations

import logging
import math
import os
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Literal

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from medrl.config.common import LoraConfig, ModelConfig
from medrl.config.learner import LearnerConfig, OptimizerConfig
from medrl.errors import TrainingError
from medrl.learner.schedule import lr_factor
from medrl.models.device import pick_device

Precision = Literal["float32", "adapter", "bfloat16"]


def init_process(rank: int, world: int, master_addr: str, master_port: int, timeout_s: float) -> None:
    """Join the group of `world` ranks: NCCL where this process sees a GPU, gloo otherwise.

    Each rank is expected to see one device only, as Ray arranges it. `timeout_s` bounds every collective.
    """
    device = pick_device()
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "0",
        "MASTER_ADDR": master_addr, "MASTER_PORT": str(master_port),
    }
    set_up_deepspeed()
    if device.type == "cuda":
        torch.cuda.set_device(0)
    deepspeed.init_distributed(
        "nccl" if device.type == "cuda" else "gloo",
        timeout=timedelta(seconds=timeout_s), rank=rank, world_size=world, verbose=False,
    )


def set_up_deepspeed() -> None:
    """To be called before DeepSpeed joins a process group."""
    # Only DeepSpeed's inference kernels use the shared-memory op; building it costs a compiler and a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.WARNING)


class TrainEngine:
    """A model with its optimizer and schedule under DeepSpeed ZeRO 0–3.

    Losses are sums whose weights come from the whole mini-batch, so gradients are summed over micro-batches and ranks;
    DeepSpeed averages over ranks, which `backward` undoes. A forward pass must go through the engine (`engine(...)`),
    and every rank must do as many of them: ZeRO 2 and 3 communicate inside forward and backward.

    `apart`: a part of the model with an optimizer's settings of its own.
    """

    def __init__(
        self, model: nn.Module, config: LearnerConfig, total_updates: int, precision: Precision,
        apart: tuple[nn.Module, OptimizerConfig] | None = None,
    ) -> None:
        self.config, self.rank, self.world = config, dist.get_rank(), dist.get_world_size()
        others = set(apart[0].parameters()) if apart else set()
        parts = [([p for p in model.parameters() if p.requires_grad and p not in others], config.optimizer)]
        if apart:
            parts.append((list(apart[0].parameters()), apart[1]))
        groups = [{
            "params": parameters, "lr": settings.lr, "betas": (settings.betas[0], settings.betas[1]),
            "eps": settings.eps, "weight_decay": settings.weight_decay} for parameters, settings in parts]
        optimizer = torch.optim.AdamW(groups, fused=True)
        scheduler = LambdaLR(optimizer, [
            lr_factor(settings.schedule, settings.warmup_steps, total_updates) for _, settings in parts])
        initialize: Any = deepspeed.initialize  # annotated more narrowly than what it takes
        self.deepspeed: Any
        self.deepspeed, *_ = initialize(
            model=model, optimizer=optimizer, model_parameters=[p for parameters, _ in parts for p in parameters],
            lr_scheduler=scheduler, config=deepspeed_config(config, precision), dist_init_required=False,
        )
        self.optimizer = optimizer
        self.device = pick_device()
        self.grad_norm = 0.0
        if config.zero_stage == 0:
            optimizer.register_step_pre_hook(self._clip)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.deepspeed(*args, **kwargs)

    @property
    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def backward(self, loss: Tensor) -> None:
        """Add this micro-batch's gradient."""
        self.deepspeed.backward(loss * self.world, scale_wrt_gas=False)

    def step(self) -> float:
        """Reduce over ranks, clip, update; returns the gradient norm before clipping.

        Raises TrainingError, on all ranks, if the norm is not finite; parameters and optimizer are then untouched.
        """
        self.deepspeed.step()
        if self.config.zero_stage:
            if not self.deepspeed.was_step_applied():
                raise _not_finite("gradient norm", math.inf)
            self.grad_norm = float(self.deepspeed.get_global_grad_norm())
        return self.grad_norm

    def discard(self) -> None:
        """Forget the accumulated gradient."""
        zero = self.deepspeed.optimizer
        zero.zero_grad()
        if self.config.zero_stage == 2:  # keeps its running sums outside the parameters
            zero.averaged_gradients.clear()
            zero.all_grad_tensors.clear()

    def sum_over_ranks(self, stats: dict[str, float]) -> dict[str, float]:
        """The same keys with sums over all ranks; `*_max` keys with the maximum."""
        values = torch.tensor(list(stats.values()), dtype=torch.float64, device=self.device)
        is_max = torch.tensor([name.endswith("_max") for name in stats], device=self.device)
        largest = values.clone()
        dist.all_reduce(values)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return dict(zip(stats, torch.where(is_max, largest, values).tolist(), strict=True))

    def most_over_ranks(self, count: int) -> int:
        """The largest `count` of all ranks; its own where ranks need not keep in step (below ZeRO 3)."""
        if self.config.zero_stage < 3:
            return count
        most = torch.tensor(count, device=self.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return int(most)

    def describe(self) -> dict[str, Any]:
        """Classes really in use, and the size of what trains."""
        return {
            "engine": _full_name(self.deepspeed), "optimizer": _full_name(self.deepspeed.optimizer),
            "zero_stage": self.config.zero_stage, "workers": self.world, "device": str(self.device),
        }

    def full_tensors(self, *, copied: bool = True) -> dict[str, Tensor]:
        """Parameters and saved buffers by name on rank 0 (tied ones once); empty elsewhere. Collective.

        They are copies on the CPU. `copied` False: the tensors themselves, which the next update changes, unless ZeRO 3
        holds slices of them only.
        """
        def taken(tensor: Tensor) -> Tensor:
            whole = not copied and self.config.zero_stage < 3
            return tensor.detach() if whole else tensor.detach().cpu().clone()

        model, tensors = self.deepspeed.module, {}
        saved = model.state_dict().keys()
        for name, parameter in model.named_parameters():
            with self.gathered([parameter]):
                if self.rank == 0:
                    tensors[name] = taken(parameter)
        buffers = {name: taken(b) for name, b in model.named_buffers() if name in saved}
        return tensors | buffers if self.rank == 0 else {}

    def gathered(self, parameters: list[nn.Parameter]) -> AbstractContextManager:
        """Within it the parameters are whole on every rank (ZeRO 3 holds slices)."""
        return deepspeed.zero.GatheredParameters(parameters, enabled=self.config.zero_stage == 3)

    def _clip(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        """At ZeRO 0 DeepSpeed clips without telling the norm or checking it; here the gradient is reduced already."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.config.optimizer.max_grad_norm))
        if not math.isfinite(norm):
            raise _not_finite("gradient norm", norm)
        self.grad_norm = norm


def precision_of(model: ModelConfig, lora: LoraConfig | None) -> Precision:
    """How to train: see `deepspeed_config`."""
    return "float32" if model.dtype == "float32" else "adapter" if lora else "bfloat16"


def deepspeed_config(config: LearnerConfig, precision: Precision) -> dict[str, Any]:
    """DeepSpeed's settings.

    "float32" and "adapter" (a frozen base of any dtype under float32 adapters) need no precision section: AdamW works
    on the float32 parameters themselves. "bfloat16" trains bfloat16 parameters on float32 master weights, which
    DeepSpeed keeps from ZeRO 2 on.
    """
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # any number of backward passes, then step() reduces and updates
        "gradient_clipping": config.optimizer.max_grad_norm if config.zero_stage else 0.0,
        "zero_optimization": {"stage": config.zero_stage, "overlap_comm": False},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
    if precision == "bfloat16":
        settings |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    return settings


def _full_name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _not_finite(what: str, value: float) -> TrainingError:
    return TrainingError(
        f"the {what} is not finite; the update was not applied", limit="a finite number", got=str(value),
        remedy="lower the learning rate, or look for extreme rewards, advantages or log-probs in the batch")
