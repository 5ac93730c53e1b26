"""What a run left in its folder, as plain values. Nothing here needs torch or ray."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrl.errors import DataError
from medrl.tracking.jsonl import read_rows

PIPELINE_FILE = "pipeline.json"
# File → the kind of run that leaves it; the first one found decides.
KINDS = {
    "evaluation.json": "evaluation",
    "samples.jsonl": "ppo",
    "summary.json": "ppo",
    "metrics.jsonl": "supervised",
    "report.json": "supervised",
    "merge.json": "merge",
    "world.json": "world",
}

# Kind → what a run writes at its end.
RESULTS = {
    "evaluation": "evaluation.json",
    "ppo": "summary.json",
    "supervised": "report.json",
    "merge": "merge.json",
    "world": "world.json",
}


@dataclass(frozen=True)
class Run:
    """One run's folder. What it did not leave, because it broke off or is of another kind, is empty."""

    name: str
    kind: str  # one of KINDS' values
    steps: list[dict[str, Any]]  # rows of metrics.jsonl; a value may be None
    samples: list[dict[str, Any]]  # rows of samples.jsonl
    result: dict[str, Any]  # what it wrote at its end: summary.json, report.json, evaluation.json, …
    config: str  # config.yaml
    versions: dict[str, str]
    seconds: float | None  # as the pipeline measured it, else as the run did


def read_folder(folder: Path) -> list[Run]:
    """The runs of a pipeline's folder in their order, or the one run that `folder` is.

    Raises DataError when there is nothing of a run in it, or a file cannot be read.
    """
    links = _json(folder / PIPELINE_FILE)
    runs = [folder / name for name in links if kind_of(folder / name)] if links else [folder]
    if not runs:
        raise DataError(f"no link of {folder} has left anything yet", remedy="run `medrl pipeline` first")
    return [read_run(run) for run in runs]


def read_run(folder: Path) -> Run:
    """One run. Raises DataError when `folder` holds nothing of a run, or a file cannot be read."""
    kind = kind_of(folder)
    if kind is None:
        raise DataError(f"nothing to report in {folder}", limit=f"a folder with one of {', '.join(KINDS)}",
                        got="none of them" if folder.is_dir() else "no such folder",
                        remedy="give the folder of a run or of a whole pipeline")
    result = _json(folder / RESULTS[kind])
    measured = _json(folder.parent / PIPELINE_FILE).get(folder.name, {}).get("seconds")
    own = result.get("seconds")
    config = folder / "config.yaml"
    return Run(
        name=folder.resolve().name,
        kind=kind,
        steps=_rows(folder / "metrics.jsonl"),
        samples=_rows(folder / "samples.jsonl"),
        result=result,
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
        versions=_json(folder / "versions.json"),
        seconds=measured if measured is not None else own if isinstance(own, int | float) else None,
    )


def kind_of(folder: Path) -> str | None:
    """The kind of run that left `folder`, by the files in it; None: no run did."""
    return next((kind for file, kind in KINDS.items() if (folder / file).is_file()), None)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON", got=str(error), remedy="restore the file or move it away") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold an object", got=type(value).__name__)
    return value


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path)] if path.is_file() else []
