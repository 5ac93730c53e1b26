"""Where a run comes from: its data, its base model, its code."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import medrl
from medrl.hashing import content_hash
from medrl.lora.identity import model_hash


def lineage(settings: Mapping[str, Any]) -> dict[str, str]:
    """Name → hash or version, from a stage's settings.

    `medrl.data.<key>.sha256` of every data file or folder that is here (a hub dataset has its name among the settings),
    `medrl.base_model.sha256` as the records beside adapters have it, and the code's version.
    """
    data = {f"medrl.data.{key}.sha256": content_hash(path) for key, path in settings.get("data", {}).items()
            if isinstance(path, str) and Path(path).exists()}
    base = settings.get("model", {}).get("path")
    model = {"medrl.base_model.sha256": model_hash(base)} if base else {}
    return data | model | _code()


def _code() -> dict[str, str]:
    """The package's version, and the commit when medrl runs from a checkout."""
    found, root = {"medrl.version": version("medrl")}, Path(medrl.__file__).parents[1]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        if done.returncode == 0:
            found["mlflow.source.git.commit"] = done.stdout.strip()  # the name that MLflow's own pages look for
    return found
