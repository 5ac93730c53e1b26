"""Loading of tokenizers and causal language models from a directory (or the local hub cache).

Importing this file costs nothing: torch and transformers come in only when a model is loaded, so that a config can be
checked before any of them.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medrl.config.common import ModelConfig
from medrl.data.templates import set_template
from medrl.errors import ModelError
from medrl.setup.choices import choose_attention
from medrl.setup.machine import this_machine

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
DROPOUT_MARKS = ("dropout", "pdrop", "layerdrop")


def local_dir(path: str) -> Path:
    """The directory that holds model `path`: itself, or its snapshot in the local hub cache. ModelError if neither."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise ModelError(
            f"no model at {path}",
            limit="a model directory, or a hub id that is in the local cache",
            remedy=f"check the path; for a hub id run `hf download {path}` first",
        ) from None


def check_model_dir(path: str, *, tokenizer: bool = True) -> Path:
    """Quick check, without torch, that `path` holds config.json, complete safetensors weights and a tokenizer.

    Returns the directory. Raises ModelError that says what is missing.
    """
    directory = local_dir(path)
    _check_config(directory)
    _check_weights(directory)
    if tokenizer and not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{directory} has no tokenizer",
            limit=f"one of {', '.join(TOKENIZER_FILES)}",
            remedy="copy the tokenizer's files there, or set model.tokenizer",
        )
    return directory


def _check_config(directory: Path) -> None:
    file = directory / "config.json"
    if not file.is_file():
        remedy = "give the directory that save_pretrained wrote"
        if (directory / "adapter_config.json").is_file():
            remedy = "this is an adapter: run `medrl merge` and give the merged model"
        raise ModelError(f"{directory} is not a model directory", limit="a config.json in it", remedy=remedy)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON", got=str(error), remedy="restore the file") from None
    if not isinstance(values, dict) or "model_type" not in values:
        raise ModelError(f"{file} names no model_type", remedy="restore the config.json that belongs to the weights")


def _check_weights(directory: Path) -> None:
    index = directory / "model.safetensors.index.json"
    try:
        shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{index} is damaged", got=repr(error), remedy="copy the model again") from None
    missing = sorted(
        name for name in shards if not (directory / name).is_file() or not (directory / name).stat().st_size
    )
    if not missing:
        return
    remedy = "copy the weights there"
    if any(directory.glob("pytorch_model*.bin")):
        remedy = "pickled weights are not read: convert them to safetensors (load and save_pretrained once)"
    raise ModelError(
        f"{directory} has no complete weights",
        limit="safetensors weights, every shard present",
        got=f"missing or empty: {', '.join(missing)}",
        remedy=remedy,
    )


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of `model.tokenizer`, else of `model.path`, with the chat template of the config if it names one.

    Raises ModelError when there is no tokenizer, or its template is not the one it was saved with.
    """
    from transformers import AutoTokenizer

    directory = local_dir(model.tokenizer or model.path)
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{directory} has no tokenizer",
            limit=f"one of {', '.join(TOKENIZER_FILES)}",
            remedy="copy the tokenizer's files there, or set model.tokenizer",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=model.trust_remote_code)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ModelError(
            f"the tokenizer in {directory} cannot be loaded",
            got=str(error).splitlines()[0],
            remedy="restore its files; a custom one may need model.trust_remote_code",
        ) from error
    set_template(tokenizer, model.chat_template)
    return tokenizer


def read_config(path: str, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The transformers config of model directory (or cached hub id) `path`; weights need not be there.

    Raises ModelError when config.json is missing, damaged, or of a model_type that transformers does not know.
    """
    from transformers import AutoConfig

    directory = local_dir(path)
    _check_config(directory)
    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except Exception as error:  # a damaged config breaks transformers in any way
        raise ModelError(
            f"the config in {directory} cannot be read",
            got=(str(error).splitlines() or [repr(error)])[0],
            remedy="check its model_type; a custom one may need model.trust_remote_code",
        ) from error


def auto_class(config: PreTrainedConfig, task: Literal["causal", "scalar"]) -> Any:
    """transformers' auto class for a config: language model (with its vision tower, if it has one) or classifier.

    Raises ModelError when the model_type has none.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSequenceClassification

    choices = {
        "causal": (AutoModelForCausalLM, AutoModelForImageTextToText),
        "scalar": (AutoModelForSequenceClassification,),
    }[task]
    for auto in choices:
        if type(config) in auto._model_mapping or auto.__name__ in (getattr(config, "auto_map", None) or {}):
            return auto
    raise ModelError(
        f"transformers has no {'language model' if task == 'causal' else 'sequence-classification class'} "
        f"for model_type {config.model_type}",
        limit="one of " + ", ".join(auto.__name__ for auto in choices),
        remedy="choose another base model" if task == "causal" else "choose a base whose model_type has one",
    )


def has_flash_attention(config: PreTrainedConfig) -> bool:
    """Whether transformers runs the architecture of a config with flash attention."""
    from transformers import AutoModel

    classes = AutoModel._model_mapping.get(type(config), None)  # None: remote code
    return any(getattr(kind, "_supports_flash_attn", False)
               for kind in (classes if isinstance(classes, tuple) else (classes,)))


def load_causal_lm(model: ModelConfig) -> PreTrainedModel:
    """The language model in `model.dtype`, in eval mode, every dropout 0, no key-value cache.

    Raises ModelError for a directory without config or weights, and for weights that would be newly initialised.
    """
    config = read_config(model.path, model.trust_remote_code)
    return load_pretrained(auto_class(config, "causal"), model)


def load_pretrained(
    auto_class: Any, model: ModelConfig, *, may_miss: tuple[str, ...] = (), **config_values: Any
) -> PreTrainedModel:
    """What `load_causal_lm` does, for any of transformers' auto classes.

    `may_miss`: parameters allowed to be newly initialised (a head that an adapter brings along); `config_values`
    overwrite the model's config (`num_labels`).
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig

    from medrl.models.norm import shorten_norms

    directory = check_model_dir(model.path, tokenizer=False)
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=model.trust_remote_code, **config_values)
        zero_dropout(config)
        loaded, info = auto_class.from_pretrained(
            directory,
            config=config,
            dtype=getattr(torch, model.dtype),
            use_safetensors=True,
            output_loading_info=True,
            attn_implementation=choose_attention(model, this_machine(), has_flash_attention(config)).value,
            trust_remote_code=model.trust_remote_code,
        )
    except (ValueError, OSError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"the model in {directory} cannot be loaded",
            got=str(error).splitlines()[0],
            remedy="check that config.json belongs to the weights and that transformers knows the model_type",
        ) from error
    fresh = sorted(set(info["missing_keys"]) - set(may_miss))
    if fresh:
        raise ModelError(
            f"the weights in {directory} lack parameters of {type(loaded).__name__}: they would start at random",
            got=", ".join(fresh[:5]) + (f" and {len(fresh) - 5} more" if len(fresh) > 5 else ""),
            remedy="give a checkpoint of this class (a merged one, not an adapter or another head)",
        )
    loaded.config.use_cache = False
    shorten_norms(loaded)
    return loaded.eval()


def zero_dropout(config: PreTrainedConfig) -> None:
    """Set every dropout rate of the config to 0 (old and new log-probs must not differ by noise), and say which."""
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        for name, value in list(vars(part).items()):
            if isinstance(value, float) and value > 0 and any(mark in name for mark in DROPOUT_MARKS):
                logger.warning("%s: %s %g is set to 0 for training", type(part).__name__, name, value)
                setattr(part, name, 0.0)
