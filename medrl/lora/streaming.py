"""A model that is never whole in memory: its structure without weights, and one decoder layer's tensors at a time."""

from __future__ import annotations

import copy
import ctypes
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key, revert_weight_conversion

from medrl.errors import AdapterError, ModelError
from medrl.lora.families import decoder_stack
from medrl.models.loading import check_model_dir
from medrl.models.stored_weights import StoredWeights

Tensors = dict[str, Tensor]
Units = dict[str, list[str]]  # module → full names of its tensors, for whatever is loaded and dropped together


def empty_model(auto_class: Any, path: str, **config_values: Any) -> Any:
    """The model of directory `path`, in eval mode: float32 parameters on the meta device, computed buffers as they are.

    `config_values` overwrite the model's config (`num_labels`). Raises ModelError for what is no model directory, or
    holds quantised weights.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig

    directory = check_model_dir(path, tokenizer=False)
    try:
        config = AutoConfig.from_pretrained(directory, **config_values)
        if getattr(config, "quantization_config", None):
            raise ModelError(f"the weights in {directory} are quantised", limit="float weights",
                             remedy="use the unquantised model")
        with init_empty_weights(include_buffers=False):
            return auto_class.from_config(config, dtype=torch.float32).eval()
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise ModelError(
            f"the model in {directory} cannot be built", got=str(error).splitlines()[0],
            remedy="check that transformers knows the model_type",
        ) from error


class ModelWeights:
    """A checkpoint's tensors under the names that `model` (its structure is enough) has for them.

    Where the two differ, transformers' own renamings and conversions are applied, as in `from_pretrained`.
    """

    def __init__(self, model: Any, stored: StoredWeights) -> None:
        self.model, self.stored = model, stored
        self.sources: dict[str, list[tuple[str, str | None]]] = {}  # name → [(key in the checkpoint, conversion)]
        self.unused: list[str] = []  # keys of the checkpoint that the model has no place for
        mapping = get_model_conversion_mapping(model)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        self._converters = {pattern: converter for converter in converters for pattern in converter.source_patterns}
        expected, prefix, made = model.state_dict(), model.base_model_prefix, set()
        for key in stored:
            name, pattern = rename_source_key(key, renamings, converters, prefix, expected)
            if name not in expected and key in expected:
                name, pattern = key, None
            if name not in expected:
                self.unused.append(key)
                continue
            self.sources.setdefault(name, []).append((key, pattern))
            made |= set(self.made_of(name))
        tied = getattr(model, "all_tied_weights_keys", None) or {}
        self.aliases = {name: source for name, source in tied.items() if name not in made}
        self.missing = sorted(expected.keys() - made - self.aliases.keys())
        if ignored := getattr(model, "_keys_to_ignore_on_load_missing", None):
            self.missing = [name for name in self.missing if not re.search("|".join(ignored), name)]

    def check(self, brought: Iterable[str] = ()) -> None:
        """ModelError unless every tensor of the model is there, or among those `brought` from elsewhere."""
        fresh = sorted(set(self.missing) - set(brought))
        if fresh:
            raise ModelError(
                f"the weights lack parameters of {type(self.model).__name__}: they would start at random",
                got=", ".join(fresh[:5]) + (f" and {len(fresh) - 5} more" if len(fresh) > 5 else ""),
                remedy="give a checkpoint of this class (a merged one, not an adapter or another head)",
            )

    def load(self, names: Iterable[str]) -> Tensors:
        """The tensors `names` (those that the checkpoint has), floating ones in float32. Each is a copy of its own."""
        loaded: Tensors = {}
        for name in names:
            source = self.aliases.get(name, name)
            for made, tensor in self._read(source).items() if source in self.sources else ():
                loaded[name if made == source else made] = tensor.float() if tensor.is_floating_point() else tensor
        return loaded

    def made_of(self, name: str) -> list[str]:
        """Names of all tensors that are made together from the checkpoint's keys of `name`."""
        pattern = self.sources[name][0][1]
        first, *others = self._converters[pattern].target_patterns if pattern else [""]
        return [name, *(name.replace(first, other) for other in others)]

    def as_stored(self, name: str, tensors: Tensors) -> Tensors:
        """The tensors of `made_of(name)` under the checkpoint's own keys. AdapterError where no way leads back."""
        stored = revert_weight_conversion(self.model, tensors)
        keys = {key for key, _ in self.sources[name]}
        if stored.keys() != keys:
            raise AdapterError(
                "the adapter changes a tensor that the checkpoint stores in another form", got=name,
                limit="a form that transformers can write", remedy="leave it out of the adapter's targets")
        return stored

    def _read(self, name: str) -> Tensors:
        sources = self.sources[name]
        if sources[0][1] is None:
            return {name: self.stored[sources[0][0]]}
        converter = copy.deepcopy(self._converters[sources[0][1]])
        for key, pattern in sorted(sources, key=lambda source: _natural(source[0])):
            converter.add_tensor(name, key, pattern, self.stored[key])  # pyright: ignore[reportArgumentType]
        made = converter.convert(name, model=self.model, config=self.model.config)
        return {target: tensor[0] if isinstance(tensor, list) else tensor for target, tensor in made.items()}


def _natural(key: str) -> list[tuple[int, int, str]]:
    """Experts 0, 1, …, 10: numbers by value."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in key.split(".")]


def units_of(model: nn.Module) -> Units:
    """What to load together: each decoder layer whole, and outside them each module's own tensors."""
    try:
        stack = decoder_stack(model) + "."
    except AdapterError:
        stack = "\n"  # no name starts like this
    units: Units = {}
    for name in model.state_dict():
        inside = name.startswith(stack)
        home = stack + name[len(stack) :].split(".")[0] if inside else name.rpartition(".")[0]
        units.setdefault(home, []).append(name)
    return units


@contextmanager
def streamed(model: Any, units: Units, fetch: Callable[[list[str]], Tensors]) -> Iterator[None]:
    """Within it, a forward pass of `model` loads each unit's tensors by `fetch` when it gets there, and drops them.

    `units` and names are those of the bare model, whether `model` is it or a PeftModel around it.
    """
    base, handles = bare(model), []
    for home, names in units.items():

        def enter(_module: nn.Module, _args: Any, names: list[str] = names) -> None:
            place(base, fetch(names))

        def leave(_module: nn.Module, _args: Any, _output: Any, names: list[str] = names) -> None:
            drop(base, names)
            give_back_memory()

        module = locate(base, home)
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def place(base: nn.Module, tensors: Tensors) -> None:
    """Put tensors where the base model has them, below any adapter."""
    for name, tensor in tensors.items():
        home, _, leaf = name.rpartition(".")
        module = _under(locate(base, home))
        if leaf in module._buffers:
            module._buffers[leaf] = tensor
        else:
            module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


def drop(base: nn.Module, names: Iterable[str]) -> None:
    """Leave of these tensors only their shapes."""
    for name in names:
        home, _, leaf = name.rpartition(".")
        module = _under(locate(base, home))
        store: Any = module._buffers if leaf in module._buffers else module._parameters
        if leaf in module._buffers:
            store[leaf] = store[leaf].to("meta")
        else:
            store[leaf] = nn.Parameter(store[leaf].detach().to("meta"), requires_grad=False)


def give_back_memory() -> None:
    """Return freed memory to the system: glibc keeps what aligned tensors leave in pieces that the next do not fit."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it, and only glibc needs it
    if trim:
        trim(0)


def bare(model: Any) -> nn.Module:
    """The model itself, or the one inside a PeftModel (its modules may carry adapters)."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def locate(base: nn.Module, name: str) -> nn.Module:
    """The module that bears this name in the bare model: what the forward pass calls, so maybe an adapter around it."""
    module = base
    for part in name.split(".") if name else ():
        module = getattr(_under(module), part)
    return module


def _under(module: nn.Module) -> nn.Module:
    """What a wrapper of PEFT's wraps; any other module itself."""
    if isinstance(module, LoraLayer):
        return module.get_base_layer()
    return module.original_module if isinstance(module, ModulesToSaveWrapper) else module
