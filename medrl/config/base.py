"""Loading of configs: YAML plus `a.b=value` overrides into a frozen pydantic model, or one ConfigError."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medrl.errors import ConfigError


class StrictModel(BaseModel):
    """Unknown keys and wrong types are errors; a loaded config never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


ConfigT = TypeVar("ConfigT", bound=StrictModel)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, except that 1e-5 is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d[\d_]*)(\.[\d_]*)?([eE][-+]?\d+)$|^[-+]?(\d[\d_]*)?\.\d[\d_]*([eE][-+]?\d+)?$|^[-+]?\.(inf|nan)$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str) -> Any:
    """YAML text to plain Python values."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def load_config(model: type[ConfigT], path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> ConfigT:
    """Read `path`, apply `a.b=value` overrides in order, validate.

    Raises ConfigError listing every problem with its path, the limit, the value and a remedy.
    """
    values = read_yaml(Path(path)) if path else {}
    return build_config(model, values, source=str(path or "command line"), overrides=overrides)


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file. ConfigError when there is none."""
    if not path.is_file():
        raise ConfigError(
            f"no config file at {path}", remedy="give the path of a YAML file, for example configs/demo/ppo.yaml"
        )
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML", got=str(error)) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of keys", got=type(values).__name__)
    return values


def build_config(
    model: type[ConfigT], values: dict, source: str = "config", overrides: list[str] | tuple[str, ...] = ()
) -> ConfigT:
    """Apply `a.b=value` overrides, validate as `model`; ConfigError instead of pydantic's ValidationError."""
    for override in overrides:
        _apply_override(values, override)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_describe(model, problem) for problem in error.errors()]
        raise ConfigError(
            f"{source}: {len(problems)} problem{'s' * (len(problems) > 1)}\n  " + "\n  ".join(problems)
        ) from None


def _apply_override(values: dict, override: str) -> None:
    key, sep, text = override.partition("=")
    if not sep or not key:
        raise ConfigError("an override must look like a.b=value", got=override)
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {key}: the value is not valid YAML", got=str(error)) from None
    set_value(values, key, value)


def set_value(values: dict, key: str, value: Any) -> None:
    """Put `value` at a dotted key, making the sections on the way. ConfigError when a plain value is in the way."""
    node = values
    *parents, last = key.split(".")
    for name in parents:
        child = node.get(name)
        if child is None:
            child = node[name] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"override {key}: {name} is a value, not a section", got=repr(child))
        node = child
    node[last] = value


def _describe(model: type[BaseModel], problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"]) or "(whole config)"
    if problem["type"] == "extra_forbidden":
        section = _section(model, problem["loc"][:-1])
        known = sorted(section.model_fields) if section else []
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys here: {', '.join(known)}"
        return f"{location}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{location}: required, but not set"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{location}: {message}"
    return f"{location}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"


def _section(model: type[BaseModel] | None, location: tuple) -> type[BaseModel] | None:
    """The config class that the path leads to."""
    for part in location:
        info = model.model_fields.get(part) if model and isinstance(part, str) else None
        if info is not None:
            model = _model_in(info.annotation)
        elif not isinstance(part, int):
            return None
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
