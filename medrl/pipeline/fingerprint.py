"""What a link's result depends on, as one hash: its settings, the content of what it reads, the libraries."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from medrl.hashing import content_hash
from medrl.pipeline.plan import Step
from medrl.run_dir import library_versions

# Where and how it runs, not what comes out.
NOT_CONTENT = {"name", "output_dir", "ray", "tracking", "mlflow", "timeouts", "checkpoint"}


def fingerprints(steps: list[Step]) -> dict[str, str]:
    """Link → sha256. What an earlier link leaves counts by that link's hash, other paths by their content."""
    found: dict[str, str] = {}
    made: dict[str, str] = {}  # path → hash of the link that leaves it
    for step in steps:
        settings = step.config.model_dump(mode="json", exclude=NOT_CONTENT)
        content = {"settings": _by_content(settings, made), "versions": library_versions()}
        text = json.dumps([type(step.config).__name__, content], sort_keys=True)
        found[step.name] = hashlib.sha256(text.encode()).hexdigest()
        made |= {output.path: f"{step.name} {what} {found[step.name]}" for what, output in step.outputs.items()}
    return found


def _by_content(value: Any, made: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _by_content(item, made) for key, item in value.items()}
    if isinstance(value, list):
        return [_by_content(item, made) for item in value]
    if not isinstance(value, str):
        return value
    for path in (value, *map(str, Path(value).parents)):  # a file below an earlier link's folder
        if path in made:
            return f"{made[path]} {value.removeprefix(path)}"
    return content_hash(value) if value and Path(value).exists() else value
