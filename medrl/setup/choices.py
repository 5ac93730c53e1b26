"""What a worker sets by itself, and why: the same functions give what is applied and what `medrl check` prints.

A choice is named after the setting with which a user makes it; what a user has set is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from medrl.config.common import DType, ModelConfig
from medrl.setup.machine import Machine

T = TypeVar("T")
SET_BY_YOU = "set by you"
AMPERE = (8, 0)  # the first compute capability with bfloat16
SPINS = "2000"
KEEPS = "glibc, keeps freed memory"
ALLOCATORS = ("tcmalloc", "jemalloc", "mimalloc")
FASTER = 1.1  # what counts as faster


@dataclass(frozen=True)
class Choice(Generic[T]):
    """A setting's value, and the reason in words."""

    value: T
    why: str


def choose_threads(asked: int | None, reserved: float, cores: int | None, together: int) -> Choice[int]:
    """Threads of a worker.

    `reserved`: its CPUs; `cores`: those of the one machine of the cluster, on which `together` such workers compute at
    the same time. None: there are more machines.
    """
    if asked is not None:
        return Choice(asked, SET_BY_YOU)
    if cores is None:
        return Choice(max(1, int(reserved)), f"the {reserved:g} CPUs it reserves")
    words = "alone" if together == 1 else f"one of {together} that compute at the same time"
    return Choice(max(1, cores // together), f"{cores} cores; {words}")


def explain_device(reserved: float, machine: Machine) -> Choice[str]:
    """Where a worker computes that reserves so many GPUs."""
    if machine.gpu is None:
        return Choice("cpu", "torch sees no GPU")
    if not reserved:
        return Choice(machine.gpu.name, "there, but not reserved: with gpus_per_worker workers are placed by it")
    return Choice(machine.gpu.name, f"{reserved:g} of a GPU reserved" if reserved < 1 else f"{reserved:g} reserved")


def choose_spins(environ: Mapping[str, str]) -> Choice[str]:
    """How often a thread of GNU's OpenMP looks for work before it sleeps (GOMP_SPINCOUNT)."""
    if set_already := environ.get("GOMP_SPINCOUNT"):
        return Choice(set_already, "set in the worker's environment")
    return Choice(SPINS, "threads that spin while they wait take the cores from other workers (10 × slower)")


def choose_allocator(environ: Mapping[str, str], machine: Machine) -> Choice[str]:
    """Where a worker's memory comes from. KEEPS: `keep_freed_memory` of medrl.setup.memory is called."""
    preloaded = environ.get("LD_PRELOAD", "")
    if named := [name for name in ALLOCATORS if name in preloaded]:
        return Choice(named[0], "LD_PRELOAD of the worker's environment")
    if tuned := [name for name in environ if name == "GLIBC_TUNABLES" or name.startswith("MALLOC_")]:
        return Choice("glibc", f"{tuned[0]} of the worker's environment")
    if machine.gpu is not None:
        return Choice("glibc", "tensors are in the GPU's memory")
    if not machine.glibc:
        return Choice("the system's", "not glibc")
    return Choice(KEEPS, "activations come again in every micro-batch; the kernel would clear their pages each time")


def choose_attention(model: ModelConfig, machine: Machine, supported: bool) -> Choice[str]:
    """The attention kernel. `supported`: whether transformers runs the architecture with flash attention."""
    if model.attn_implementation is not None:
        return Choice(model.attn_implementation, SET_BY_YOU)
    obstacle = _no_flash_attention(model.dtype, machine, supported)
    if obstacle:
        return Choice("sdpa", f"PyTorch's own; no flash attention: {obstacle}")
    return Choice("flash_attention_2", "flash_attn is installed, and the GPU, the model and its dtype go with it")


def _no_flash_attention(dtype: DType, machine: Machine, supported: bool) -> str:
    if machine.gpu is None:
        return "no GPU"
    if (machine.gpu.capability or (0, 0)) < AMPERE:
        return f"{machine.gpu.name} is older than Ampere, or not from NVIDIA"
    if dtype != "bfloat16":
        return f"it does not compute in {dtype}"
    if not supported:
        return "transformers has none for this architecture"
    return "" if machine.flash_attention else "flash_attn is not installed"


def choose_eager(asked: bool | None, on_cpu: bool) -> Choice[bool]:
    """Whether a vLLM engine runs the model's Python as it is."""
    if asked is not None:
        return Choice(asked, SET_BY_YOU)
    if on_cpu:
        return Choice(True, "a CPU engine would call a C++ compiler at its start, for tens of seconds")
    return Choice(False, "compiled, and replayed as CUDA graphs")


def explain_dtype(dtype: DType, by_user: bool, machine: Machine, bfloat16_gain: float | None) -> Choice[DType]:
    """What a dtype means on a machine: it is never changed. `bfloat16_gain`: measured on the CPU; None: on a GPU."""
    source = SET_BY_YOU if by_user else "the default"
    if machine.gpu is None:
        return Choice(dtype, f"{source}; {_on_cpu(dtype, machine, bfloat16_gain)}")
    if machine.gpu.capability is None:
        return Choice(dtype, source)
    able = machine.gpu.capability >= AMPERE
    if dtype == "bfloat16" and not able:
        return Choice(dtype, f"{source}; {machine.gpu.name} has no bfloat16, which starts with Ampere: set float32")
    if dtype == "float32" and able:
        return Choice(dtype, f"{source}; {machine.gpu.name} would be faster in bfloat16, and hold twice the weights")
    return Choice(dtype, source)


def _on_cpu(dtype: DType, machine: Machine, gain: float | None) -> str:
    sets = f"has {' and '.join(machine.sets)}" if machine.sets else "has neither amx_bf16 nor avx512_bf16"
    if gain is None:
        return f"the CPU {sets}"
    faster, times = ("bfloat16", gain) if gain >= 1 else ("float32", 1 / gain)
    advice = f": {faster} would be faster" if dtype != faster and times >= FASTER else ""
    return f"the CPU {sets}, matrix products in {faster} are {times:.1f} × as fast{advice}"
