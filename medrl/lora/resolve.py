"""From a LoraConfig to the exact modules that train, before anything is wrapped (rules R1, R2 and R6)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from medrl.config.common import LoraConfig
from medrl.errors import AdapterError, ModelError
from medrl.lora.families import ROLES, adaptable, decoder_stack, roles, text_config
from medrl.lora.matching import matcher, nearest, parse_layers
from medrl.models.loading import auto_class
from medrl.models.scalar_head import score_head_name

Task = Literal["causal", "scalar"]


@dataclass(frozen=True)
class Targets:
    """What will train.

    Example: `Targets(("layers.0.mlp.up_proj",), ("layers.0.mlp.experts.down_proj",), ("score",), {}, ())`.
    """

    modules: tuple[str, ...]  # full names of linear layers and embeddings that get an adapter, in module order
    experts: tuple[str, ...]  # full names of fused expert tensors that get one
    save: tuple[str, ...]  # full names trained whole and saved with the adapter
    ranks: dict[str, int]  # adapted name → rank, where lora.ranks gives another than lora.rank
    notes: tuple[str, ...]  # what the user should know

    @property
    def adapted(self) -> tuple[str, ...]:
        return self.modules + self.experts


def resolve(model_or_config: Any, lora: LoraConfig, *, task: Task = "causal") -> Targets:
    """Find the modules `lora` means in a model, or in a config's model on the meta device (no weights needed).

    With task "scalar" the head always trains. Raises AdapterError when a role or pattern matches nothing (naming the
    nearest modules), when patterns contradict each other, or when nothing is left to adapt.
    """
    model = model_or_config if isinstance(model_or_config, nn.Module) else skeleton(model_or_config, task)
    modules = dict(model.named_modules(remove_duplicate=False))
    notes: dict[str, None] = {}
    wanted = _targeted(model, modules, lora, notes)
    save = _saved(model, modules, lora, task)
    frozen = _frozen(lora, [*wanted, *save])
    contradiction = sorted(frozen.intersection(save))
    if contradiction:
        raise AdapterError(
            "lora.freeze and lora.modules_to_save name the same module",
            got=", ".join(contradiction),
            remedy="remove it from one of them",
        )
    inside = [name for name in wanted if any(name == s or name.startswith(s + ".") for s in save)]
    if inside:
        raise AdapterError(
            "a module cannot both get an adapter and train whole",
            got=", ".join(inside[:5]),
            remedy="take it out of lora.targets (lora.freeze) or of lora.modules_to_save",
        )
    chosen = _in_layers(model, [name for name in wanted if name not in frozen], lora)
    if not chosen:
        raise AdapterError("lora.freeze and lora.layers leave nothing to adapt", remedy="loosen one of them")
    return Targets(
        tuple(name for name in chosen if name in modules),
        tuple(name for name in chosen if name not in modules),
        tuple(save),
        _ranks(lora, chosen),
        tuple(notes),
    )


def skeleton(config: Any, task: Task, trust_remote_code: bool = False) -> nn.Module:
    """The model of a transformers config on the meta device. ModelError when transformers cannot build it."""
    config = copy.deepcopy(config)
    auto = auto_class(config, task)
    if task == "scalar":
        config.num_labels = 1
    try:
        with torch.device("meta"):
            return auto.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # sizes that do not fit break a model's constructor in any way
        raise ModelError(
            f"transformers cannot build a {config.model_type} model from this config",
            got=(str(error).splitlines() or [repr(error)])[0],
            remedy="restore the config.json that belongs to the weights",
        ) from error


def _targeted(model: nn.Module, modules: dict[str, nn.Module], lora: LoraConfig, notes: dict[str, None]) -> list[str]:
    """Names meant by lora.targets, in module order and experts last, each entry having matched something."""
    meant: dict[str, None] = {}
    for target in lora.targets:
        names = _by_role(model, target, notes) if target in ROLES else _by_pattern(target, lora.match, modules)
        meant.update(dict.fromkeys(names))
    if _passes_over_experts(model, lora):
        notes["the routed experts are fused tensors and get no adapter: add the role experts for that"] = None
    return [name for name in modules if name in meant] + [name for name in meant if name not in modules]


def _passes_over_experts(model: nn.Module, lora: LoraConfig) -> bool:
    """Whether a target means all of something that has fused experts in it, and nothing names the experts."""
    fused = [name for name, p in model.named_parameters() if p.ndim == 3 and "experts" in name.split(".")]
    if not fused or "experts" in lora.targets:
        return False
    trees = [t for t in lora.targets if t not in ROLES] if lora.match == "subtree" else []
    return "all-linear" in lora.targets or any(any(map(matcher(tree, "subtree"), fused)) for tree in trees)


def _by_role(model: nn.Module, role: str, notes: dict[str, None]) -> list[str]:
    found, known = roles(model)
    if not found[role]:
        raise AdapterError(
            f"lora.targets: {type(model).__name__} has no module for the role {role!r}",
            limit=f"roles of this model: {', '.join(r for r in ROLES if found[r]) or 'none'}",
            remedy="choose one of these, or name modules by pattern",
        )
    if not known:
        note = f"model_type {getattr(text_config(model), 'model_type', 'unknown')} is not in the table: "
        notes[note + f"the role {role} was found by inspecting the modules"] = None
    return found[role]


def _by_pattern(pattern: str, mode: str, modules: dict[str, nn.Module]) -> list[str]:
    """Modules LoRA can adapt that `pattern` means; embeddings only when named themselves, not through their parent."""
    matches = matcher(pattern, mode)
    hits = [name for name in modules if name and matches(name)]
    usable = [
        n for n in hits if adaptable(modules[n]) and not (mode == "subtree" and isinstance(modules[n], nn.Embedding))
    ]
    if usable:
        return usable
    names = [name for name, module in modules.items() if adaptable(module)]
    if hits:
        raise AdapterError(
            f"lora.targets: {pattern!r} ({mode}) means only modules that LoRA cannot adapt",
            got=", ".join(f"{n} ({type(modules[n]).__name__})" for n in hits[:3]),
            remedy="name linear layers, use lora.match: subtree, or for fused experts the role experts",
        )
    raise _unmatched("lora.targets", pattern, mode, names)


def _saved(model: nn.Module, modules: dict[str, nn.Module], lora: LoraConfig, task: Task) -> list[str]:
    meant = {score_head_name(model)} if task == "scalar" else set()
    for pattern in lora.modules_to_save:
        matches = matcher(pattern, lora.match)
        hits = [n for n, m in modules.items() if n and matches(n) and any(True for _ in m.parameters())]
        if not hits:
            raise _unmatched(
                "lora.modules_to_save",
                pattern,
                lora.match,
                [n for n, m in modules.items() if n and list(m.parameters())],
            )
        meant.update(hits)
    return [n for n in modules if n in meant and not any(n.startswith(outer + ".") for outer in meant)]


def _frozen(lora: LoraConfig, names: Iterable[str]) -> set[str]:
    """Those of `names` that lora.freeze keeps as they are. AdapterError if a pattern keeps none."""
    names = list(names)
    frozen: set[str] = set()
    for pattern in lora.freeze:
        hits = set(filter(matcher(pattern, lora.match), names))
        if not hits:
            raise _unmatched("lora.freeze", pattern, lora.match, names)
        frozen |= hits
    return frozen


def _ranks(lora: LoraConfig, names: list[str]) -> dict[str, int]:
    """Adapted name → rank by lora.ranks. AdapterError for a pattern that means no adapted name, and for two ranks."""
    ranks: dict[str, int] = {}
    for pattern, rank in lora.ranks.items():
        hits = list(filter(matcher(pattern, lora.match), names))
        if not hits:
            raise _unmatched("lora.ranks", pattern, lora.match, names)
        if clash := next((name for name in hits if ranks.get(name, rank) != rank), None):
            raise AdapterError(
                "lora.ranks gives one module two ranks", got=f"{clash}: {ranks[clash]} and {rank}", remedy="keep one"
            )
        ranks |= dict.fromkeys(hits, rank)
    return ranks


def _in_layers(model: nn.Module, names: list[str], lora: LoraConfig) -> list[str]:
    """Those outside the decoder layers, and those in the layers that lora.layers chooses."""
    if lora.layers is None:
        return names
    stack = decoder_stack(model)
    chosen = parse_layers(lora.layers, len(model.get_submodule(stack)))  # pyright: ignore[reportArgumentType]
    inside = {n: int(n[len(stack) + 1 :].split(".")[0]) for n in names if n.startswith(stack + ".")}
    return [n for n in names if n not in inside or inside[n] in chosen]


def _unmatched(field: str, pattern: str, mode: str, names: list[str]) -> AdapterError:
    return AdapterError(
        f"{field}: {pattern!r} matches no module (match: {mode})",
        limit="every pattern matches at least one module that it is meant for",
        remedy=f"nearest names: {', '.join(nearest(pattern, names))}" if names else "nothing trains here",
    )
