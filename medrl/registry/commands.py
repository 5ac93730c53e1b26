"""`medrl register`, `versions`, `promote` and `rollback`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from medrl.config.base import load_config
from medrl.config.registry import RegistryConfig
from medrl.registry.evaluation import Evaluation
from medrl.registry.history import Event
from medrl.registry.lineage import find_evaluation, find_model
from medrl.registry.record import Version
from medrl.registry.store import Registry

DEFAULT_CONFIG = "registry.yaml"
SHOWN_RESULTS = 3


def run_register(config: str | None, run: str, evaluation: str | None, trained_by: str | None, copy: bool) -> None:
    """Register the model that `run` is or has left, with its evaluation (None: the one found in `run`)."""
    model = find_model(Path(run))
    file = Path(evaluation) if evaluation else find_evaluation(Path(run), model)
    version = _open(config, create=True).register(model, file, Path(trained_by) if trained_by else None, copy)
    print(f"version {version.number} (candidate): {model}, sha256 {version.checksum[:12]}…, in {version.path}")
    if file is None:
        print("it has no evaluation: only --force can promote it")


def run_versions(config: str | None, as_json: bool) -> None:
    """Print all versions and all changes of the champion."""
    registry = _open(config)
    versions, history = registry.versions(), registry.history()
    if as_json:
        document = {"versions": [_as_dict(v) for v in versions], "history": [asdict(event) for event in history]}
        print(json.dumps(document, ensure_ascii=False, indent=2))
        return
    console = Console()
    console.print(_versions_table(versions, history))
    if history:
        console.print(_history_table(history))


def run_promote(config: str | None, version: str, force: bool, reason: str | None) -> None:
    """Make a version the champion, through the gate."""
    event = _open(config).promote(version, force, reason)
    print(f"version {event.version} is the champion (before: {event.before or 'none'})")
    for failure in event.overruled:
        print(f"overruled: {failure}")


def run_rollback(config: str | None, reason: str | None) -> None:
    """Make the previous champion the champion again."""
    event = _open(config).rollback(reason)
    print(f"version {event.version} is the champion again (before: {event.before})")


def _open(config: str | None, create: bool = False) -> Registry:
    if config is None and not Path(DEFAULT_CONFIG).is_file():
        return Registry(RegistryConfig(), create)
    return Registry(load_config(RegistryConfig, config or DEFAULT_CONFIG), create)


def _as_dict(version: Version) -> dict[str, Any]:
    return {"number": version.number, "aliases": version.aliases, "path": str(version.path),
            **version.record.model_dump(mode="json")}


def _versions_table(versions: list[Version], history: list[Event]) -> Table:
    promoted = {event.version: event.by for event in history if event.action == "promote"}
    table = Table("version", Column("alias", no_wrap=True), Column("sha256", no_wrap=True), "registered",
                  Column("evaluation", no_wrap=True), "promoted by", title="versions")
    for version in versions:
        record = version.record
        table.add_row(str(version.number), ", ".join(version.aliases), version.checksum[:12],
                      f"{record.registered_at[:16].replace('T', ' ')} {record.registered_by}",
                      _highlights(record.evaluation), promoted.get(version.number, ""))
    return table


def _highlights(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "none"
    parts = [f"{result.name} {result.value:.3g}" for result in evaluation.results[:SHOWN_RESULTS]]
    if evaluation.rules:
        parts.append(f"rules {sum(r.passed for r in evaluation.rules)}/{sum(r.total for r in evaluation.rules)}")
    return "\n".join(parts)


def _history_table(history: list[Event]) -> Table:
    table = Table("", "when", "who", "what", "reason", "overruled", title="champions")
    for event in history:
        table.add_row(str(event.number), event.at[:16].replace("T", " "), event.by,
                      f"{event.action}: {event.before or 'none'} → {event.version}", event.reason or "",
                      "\n".join(event.overruled))
    return table
