"""Who may ask a service: its API keys, of which it knows only the SHA-256."""

from __future__ import annotations

import hashlib
import secrets
import stat
from collections import Counter
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, model_validator

from medrl.config.base import StrictModel, build_config, parse_yaml
from medrl.config.quotas import QuotaConfig
from medrl.environment import read_secret
from medrl.errors import ConfigError

KeyScope = Literal["infer", "admin"]


class KeyConfig(StrictModel):
    """One API key; `medrl key ID` makes one."""

    id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="its public name, in the audit and the metrics: up to 64 letters, digits, `.`, `_`, `-`",
    )
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key, in hexadecimal")
    scopes: list[KeyScope] = Field(
        default=["infer"], min_length=1, description="`infer`: ask the model; `admin`: every other route"
    )
    quotas: QuotaConfig | None = Field(default=None, description="null: those of the service")


class KeysConfig(StrictModel):
    """The keys of a service, from three places together."""

    api_key_env: str | None = Field(
        default=None, description="environment variable with one key for every route (its id: default); null: none"
    )
    keys: list[KeyConfig] = []
    key_file: str | None = Field(
        default=None, description="YAML or JSON file with more `keys`, a list, that only its owner may read; null: none"
    )

    @property
    def guarded(self) -> bool:
        """Whether requests must bring a key."""
        return bool(self.api_key_env or self.keys or self.key_file)

    @model_validator(mode="after")
    def _distinct(self):
        _check_distinct(self.keys)
        return self


class _KeyFile(StrictModel):
    keys: list[KeyConfig] = Field(min_length=1)


def key_hash(key: str) -> str:
    """What is kept of a key.

    SHA-256, not a slow hash as for passwords: those slow down guessing, and 256 random bits cannot be guessed, while
    every request would pay for it.
    """
    return hashlib.sha256(key.encode()).hexdigest()


def make_key(name: str, scopes: list[KeyScope]) -> tuple[str, str]:
    """A new key, and its entry in `keys` or a key file as YAML. ConfigError when the name cannot be one."""
    key = f"medrl-{secrets.token_urlsafe(32)}"
    entry = build_config(KeyConfig, {"id": name, "sha256": key_hash(key), "scopes": scopes}, source="the new key")
    return key, yaml.safe_dump([entry.model_dump(exclude_unset=True)], sort_keys=False)


def load_keys(config: KeysConfig) -> list[KeyConfig]:
    """All keys of a service: of the environment variable, of the config, of the file. ConfigError."""
    found = list(config.keys)
    if config.api_key_env:
        secret = read_secret(config.api_key_env, "the service")
        found.append(KeyConfig(id="default", sha256=key_hash(secret), scopes=["infer", "admin"]))
    if config.key_file:
        found += _read(Path(config.key_file))
    try:
        _check_distinct(found)
    except ValueError as error:
        raise ConfigError(f"the keys of the service: {error}") from None
    return found


def _read(path: Path) -> list[KeyConfig]:
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"key_file {path} cannot be read", got=type(error).__name__) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"key_file {path} is open to other users", limit="a file of its owner alone, mode 600 or 400",
            got=f"mode {stat.S_IMODE(mode):o}", remedy=f"chmod 600 {path}")
    try:
        return build_config(_KeyFile, {"keys": parse_yaml(text)}, source=str(path)).keys
    except yaml.YAMLError:
        raise ConfigError(f"key_file {path} is not valid YAML") from None


def _check_distinct(keys: list[KeyConfig]) -> None:
    """ValueError when a name or a key is there twice."""
    for name, values in (("id", [key.id for key in keys]), ("sha256", [key.sha256 for key in keys])):
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            raise ValueError(f"{name} {twice[0]} is there twice")
