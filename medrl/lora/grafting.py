"""An adapter on a model without weights: what each of the base's tensors becomes under it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import peft
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from medrl.errors import AdapterError
from medrl.lora.adapter import check_fits
from medrl.lora.streaming import ModelWeights, Tensors, bare, drop, place
from medrl.lora.wrap import ADAPTER, base_names

# Settings under which an adapter is more than changed weights.
_UNMERGEABLE = ("trainable_token_indices", "layer_replication", "alora_invocation_tokens")
_CHANGES_BASE = ("pissa", "olora")  # PEFT takes the first A and B out of the base's weight


class Graft:
    """The wrapped structure, and the base's tensors as they are below the adapter and with it merged.

    `model`: a PeftModel whose own weights are on the meta device, the adapter's in memory; `layers`: name of a
    base's tensor → the layer that adapts it; `replaced`: base name → tensor that the adapter holds whole.
    `settings`: what adapter_config.json says.
    Raises AdapterError when the adapter's tensors do not fit, or cannot be merged.
    """

    def __init__(
        self, structure: nn.Module, path: Path, tensors: Tensors, settings: dict, weights: ModelWeights
    ) -> None:
        self.init, self.weights = _checked_init(path, settings), weights
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")  # both ends are merged apart
            try:
                config = peft.PeftConfig.from_pretrained(str(path))
                wrapped: Any = peft.get_peft_model(structure, config, ADAPTER, low_cpu_mem_usage=True)  # pyright: ignore[reportArgumentType]
            except (ValueError, TypeError, ImportError, NotImplementedError) as error:
                raise AdapterError(
                    f"the adapter in {path} does not fit {type(structure).__name__}", got=str(error).splitlines()[0],
                    remedy="use the model it was trained on") from error
        self.model = wrapped.eval()
        self.base = bare(self.model)
        adapted = {home: self.model.get_submodule(home) for home in base_names(self.model, LoraLayer).values()}
        self.layers: dict[str, Any] = {_tensor_of(home, layer): layer for home, layer in adapted.items()}
        self.replaced: Tensors = {}
        for key, own in check_fits(self.model, path, tensors).items():
            _set(self.model, own, tensors[key].float())
            if not any(_belongs(own, home, layer) for home, layer in adapted.items()):
                self.replaced[_base_name(own)] = tensors[key].float()

    def plain(self, names: Iterable[str]) -> Tensors:
        """The base's tensors; those it lacks (a reward model's head) as the adapter brings them."""
        brought = {name: self.replaced[name] for name in names if name in self.weights.missing}
        return self.weights.load(names) | brought

    def adapted(self, names: Iterable[str]) -> Tensors:
        """The tensors below the adapter: the base's, but for biases and whole modules that were trained."""
        tensors = self.weights.load(names) | {name: self.replaced[name] for name in names if name in self.replaced}
        if self.init in _CHANGES_BASE:
            tensors |= {name: self._residual(name, tensor) for name, tensor in tensors.items() if name in self.layers}
        return tensors

    def merged(self, names: Iterable[str]) -> Tensors:
        """The tensors with the adapter merged, in float32, by PEFT's own arithmetic. Give a module's names together."""
        tensors = self.adapted(names)
        for adapted in [name for name in tensors if name in self.layers]:
            module, layer = adapted.rpartition(".")[0], self.layers[adapted]
            own = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] == module}
            place(self.base, own)
            layer.merge(adapter_names=[ADAPTER])
            tensors |= {name: getattr(layer.get_base_layer(), name.rpartition(".")[2]).detach() for name in own}
            layer.merged_adapters.clear()
            drop(self.base, own)
        return tensors

    def _residual(self, name: str, weight: Tensor) -> Tensor:
        """What PiSSA or OLoRA left of the weight when the adapter was made: PEFT computes it anew."""
        layer = self.layers[name]
        factors = [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]
        trained = [factor.data for factor in factors]
        place(self.base, {name: weight.clone()})
        layer.pissa_init(ADAPTER, "pissa") if self.init == "pissa" else layer.olora_init(ADAPTER)
        residual = layer.get_base_layer().weight.detach()
        drop(self.base, [name])
        for factor, data in zip(factors, trained, strict=True):
            factor.data = data
        return residual


def _checked_init(path: Path, settings: dict) -> str | bool:
    beyond = [name for name in _UNMERGEABLE if settings.get(name)]
    init = settings.get("init_lora_weights", True)
    if init not in (True, False, "gaussian", "orthogonal", "eva", *_CHANGES_BASE):
        beyond.append(f"init_lora_weights {init}")
    if beyond or settings.get("peft_type") != "LORA":
        raise AdapterError(
            f"the adapter in {path} cannot be merged by medrl",
            limit="LoRA, rsLoRA or DoRA, and whole modules",
            got=", ".join(beyond) or str(settings.get("peft_type")),
            remedy="merge it with PEFT",
        )
    return init


def _tensor_of(home: str, layer: Any) -> str:
    """Base name of the tensor that the layer adapts: a weight, or one of fused experts (whose wrappers nest)."""
    module = home.removeprefix("base_model.model.").replace(".base_layer", "")
    return f"{module}.{getattr(layer, 'parameter_name', 'weight')}"


def _belongs(own: str, home: str, layer: Any) -> bool:
    """Whether the parameter is one of the adapter layer's own (lora_A, lora_B, a magnitude)."""
    return own.startswith(home + ".") and own[len(home) + 1 :].split(".")[0] in layer.adapter_layer_names


def _base_name(own: str) -> str:
    name = own.removeprefix("base_model.model.")
    return name.replace(".base_layer.", ".").replace(f".modules_to_save.{ADAPTER}.", ".")


def _set(model: nn.Module, name: str, tensor: Tensor) -> None:
    home, _, leaf = name.rpartition(".")
    module = model.get_submodule(home)
    if leaf in module._buffers:
        module._buffers[leaf] = tensor
    else:
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))
