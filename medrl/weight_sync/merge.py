"""Merge on receive: W = W₀ + s·B·A in float32 from the pristine base, for one payload of weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from medrl.errors import WeightSyncError
from medrl.models.stored_weights import StoredWeights
from medrl.types import Weights, WeightsNotice

LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"


def check_fits(weights: Weights, base: StoredWeights) -> None:
    """Every tensor of the payload has its place in the base, with the right shape. Raises WeightSyncError.

    Runs before anything is loaded, so that an engine is never left half changed by a payload that could not fit.
    """
    problems = _full_problems(weights, base) if weights.kind == "full" else _adapter_problems(weights, base)
    _refuse(weights.version, problems)


def check_layout(notice: WeightsNotice, base: StoredWeights) -> None:
    """The same of a stream: before anything has come, it names exactly the base's tensors, with the right shapes."""
    layout = {name: shape for name, (shape, _) in notice.layout.items()}
    problems = [f"{name} is missing" for name in base if name not in layout]
    _refuse(notice.version, problems + [_shape_problem(name, shape, base) for name, shape in layout.items()])


def _refuse(version: int, problems: list[str]) -> None:
    problems = [problem for problem in problems if problem]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise WeightSyncError(f"weights of version {version} do not fit the base model", got=shown,
                              remedy="learner and rollout engines must start from the same model.path")


def merged_tensors(weights: Weights, base: StoredWeights) -> Iterator[tuple[str, torch.Tensor]]:
    """The whole model, one tensor at a time, in the base's checkpoint names.

    Whole, because vLLM fuses projections (q, k, v; gate, up) and rebuilds a fused module from what one reload brings:
    a part that is missing would be left uninitialised. Merged tensors are float32: the engine casts them last.
    """
    for name in base:
        module = name.removesuffix(".weight")
        if name in weights.tensors:
            yield name, weights.tensors[name]
        elif module in weights.scaling:
            a, b = weights.tensors[module + LORA_A].float(), weights.tensors[module + LORA_B].float()
            yield name, base[name].float() + weights.scaling[module] * (b @ a)
        else:
            yield name, base[name]


def _full_problems(weights: Weights, base: StoredWeights) -> list[str]:
    known = {name: tensor for name, tensor in weights.tensors.items() if name in base.shapes}
    problems = [f"{name} is missing" for name in base if name not in known]
    problems += [_shape_problem(name, tensor.shape, base) for name, tensor in known.items()]
    # A state dict lists both ends of tied embeddings; a checkpoint stores the tensor once.
    problems += [f"{name} is not in the base model" for name, tensor in weights.tensors.items()
                 if name not in known and not any(tensor.shape == t.shape and tensor.equal(t) for t in known.values())]
    return problems


def _adapter_problems(weights: Weights, base: StoredWeights) -> list[str]:
    modules = {name.removesuffix(end) for name in weights.tensors for end in (LORA_A, LORA_B) if name.endswith(end)}
    whole = {name: tensor for name, tensor in weights.tensors.items() if not name.endswith((LORA_A, LORA_B))}
    problems = [f"{module} has a scaling but no adapter" for module in sorted(weights.scaling.keys() - modules)]
    problems += [_module_problem(module, weights, base) for module in sorted(modules)]
    problems += [_shape_problem(name, tensor.shape, base) for name, tensor in whole.items()]
    return problems


def _module_problem(module: str, weights: Weights, base: StoredWeights) -> str:
    name, a, b = f"{module}.weight", weights.tensors.get(module + LORA_A), weights.tensors.get(module + LORA_B)
    if a is None or b is None:
        return f"{module} has only one of lora_A and lora_B"
    if module not in weights.scaling:
        return f"{module} has no scaling"
    if name in weights.tensors:
        return f"{module} has an adapter and a whole replacement"
    if name not in base.shapes:
        return f"{name} is not in the base model"
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or (b.shape[0], a.shape[1]) != base.shapes[name]:
        return f"{module}: lora_A {list(a.shape)} and lora_B {list(b.shape)} do not fit {list(base.shapes[name])}"
    return ""


def _shape_problem(name: str, shape: Sequence[int], base: StoredWeights) -> str:
    if name not in base.shapes:
        return f"{name} is not in the base model"
    if tuple(shape) != base.shapes[name]:
        return f"{name} has shape {list(shape)}, the base {list(base.shapes[name])}"
    return ""
