"""What a link's result depends on, as one hash: its settings, the content of what it reads, the libraries."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from medrl.pipeline.plan import Step
from medrl.run_dir import library_versions

# Where and how it runs, not what comes out.
NOT_CONTENT = {"name", "output_dir", "ray", "tracking", "timeouts", "checkpoint"}


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


def content_hash(path: str) -> str:
    """sha256 over the names and bytes of a file, or of all files below a folder."""
    root = Path(path)
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.relative_to(root)} {_file_hash(file, status.st_size, status.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=4096)
def _file_hash(file: Path, _size: int, _time: int) -> str:
    """`_size` and `_time` make the cached value stale when the file is written."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
