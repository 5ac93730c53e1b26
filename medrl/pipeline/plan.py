"""From a pipeline's YAML to links whose configs are checked and whose inputs are known, before anything runs."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrl.config.base import build_config, parse_yaml, set_value
from medrl.config.common import StageConfig
from medrl.config.pipeline import Link, PipelineConfig
from medrl.errors import ConfigError
from medrl.pipeline.kinds import ADAPTER, KINDS, LANGUAGE, REWARD, RUN, Kind, Output

REFERENCE = re.compile(r"\$\{([\w-]+)\.(\w+)\}")
# What a setting wants, by how its dotted key ends; other settings take what they are given.
WANTED = {
    "model.path": LANGUAGE, "base": LANGUAGE, "baseline": LANGUAGE, "reference.model": LANGUAGE,
    "sources.model": REWARD, "adapter": ADAPTER, "runs": RUN,
}


@dataclass(frozen=True)
class Step:
    """One link, ready to run."""

    name: str
    kind: Kind
    config: StageConfig
    outputs: dict[str, Output]
    shows: frozenset[str] = frozenset()  # links whose runs it reads: what it leaves depends on when they were done


def plan(config: PipelineConfig, folder: Path) -> list[Step]:
    """The links in order. `folder` is where their YAML files are looked for.

    Raises ConfigError for a config that is wrong, and for a reference to a link that does not come before, that leaves
    no such thing, or that leaves another kind of thing than the setting wants.
    """
    steps: list[Step] = []
    for name, link in config.links.items():
        kind, values = KINDS[link.stage], _values(name, link, folder)
        for key, value in link.set.items():
            set_value(values, key, _resolve(value, steps, f"links.{name}.set.{key}", key))
        values |= {"name": name, "output_dir": config.output_dir, "seed": config.seed}
        stage = build_config(kind.config, values, source=f"link {name} ({link.config or 'no file'})")
        outputs = kind.outputs(stage) | {"run": Output(stage.run_dir, RUN)}
        shows = frozenset(link for link, what in REFERENCE.findall(str(link.set)) if what == "run")
        steps.append(Step(name, kind, stage, outputs, shows))
    return steps


def _values(name: str, link: Link, folder: Path) -> dict:
    if link.config is None:
        return {}
    path = folder / link.config
    if not path.is_file():
        raise ConfigError(f"links.{name}.config: no file at {path}", remedy="give its path as seen from the pipeline's")
    values = parse_yaml(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of keys", got=type(values).__name__)
    return values


def _resolve(value: Any, earlier: list[Step], where: str, key: str) -> Any:
    """`value` with every ${link.output} in it replaced by a path."""
    if isinstance(value, dict):
        return {k: _resolve(v, earlier, where, f"{key}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(v, earlier, where, key) for v in value]
    if not isinstance(value, str):
        return value
    return REFERENCE.sub(lambda match: _output(match, earlier, where, key).path, value)


def _output(match: re.Match, earlier: list[Step], where: str, key: str) -> Output:
    link, what = match.groups()
    outputs = {step.name: step.outputs for step in earlier}
    if link not in outputs:
        close = difflib.get_close_matches(link, outputs, n=1)
        raise ConfigError(
            f"{where}: no link {link!r} comes before it",
            limit=f"one of {', '.join(outputs) or 'none: it is the first'}",
            remedy=f"did you mean {close[0]!r}?" if close else "name an earlier link",
        )
    if what not in outputs[link]:
        raise ConfigError(f"{where}: {link} leaves no {what}", limit=f"one of {', '.join(outputs[link])}")
    output = outputs[link][what]
    wanted = next((kind for end, kind in WANTED.items() if f".{key}".endswith(f".{end}")), None)
    if wanted and output.kind != wanted:
        raise ConfigError(f"{where}: {match.group()} is {output.kind}", limit=wanted)
    return output
