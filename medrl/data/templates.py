"""The chat templates that ship with medrl, for tokenizers without one, and the hash a saved template is known by."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from medrl.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMES = ("alpaca", "chatml", "gemma", "llama3", "mistral", "qwen", "vicuna")
HASH_KEY = "chat_template_sha256"  # of tokenizer_config.json


def load_template(name: str) -> str:
    """The text of a shipped template, or of a file. Raises ConfigError."""
    path = files("medrl.data").joinpath(f"chat_templates/{name}.jinja") if name in NAMES else Path(name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            "model.chat_template is neither the name of a template nor a text file", got=name,
            limit=f"{', '.join(NAMES)}, or the path of a .jinja file",
        ) from None


def set_template(tokenizer: PreTrainedTokenizerBase, name: str | None) -> None:
    """Give the tokenizer the template `name`, or leave it its own; record the hash of what it has now.

    The hash is saved with the tokenizer, hence with every model that is trained with it. Raises ModelError when the
    tokenizer was saved with the hash of another template than it has.
    """
    recorded = tokenizer.init_kwargs.get(HASH_KEY)
    if name is not None:
        tokenizer.chat_template = load_template(name)
    elif tokenizer.chat_template:
        _check_recorded(tokenizer.name_or_path, recorded, template_hash(tokenizer))
    if tokenizer.chat_template:
        tokenizer.init_kwargs[HASH_KEY] = template_hash(tokenizer)


def _check_recorded(path: str, recorded: str | None, found: str) -> None:
    if recorded and found != recorded:
        raise ModelError(
            f"the chat template of {path} is not the one the model was trained with",
            limit=f"sha256 {recorded}", got=f"sha256 {found}",
            remedy="restore the template; to change it on purpose set model.chat_template",
        )


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the template's text."""
    return _hash(str(tokenizer.chat_template))


def stored_template_hash(directory: Path) -> str | None:
    """The `template_hash` of the tokenizer saved in `directory`, without loading it; None when it has no template.

    Raises ModelError when it was saved with the hash of another template.
    """
    file, config = directory / "chat_template.jinja", directory / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    template = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
    if template is None:
        return None
    _check_recorded(str(directory), settings.get(HASH_KEY), found := _hash(template))
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
