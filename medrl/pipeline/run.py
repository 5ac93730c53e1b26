"""`medrl pipeline`: run the links in order; what is done and unchanged is not done again."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from medrl.config.common import RayConfig
from medrl.config.pipeline import PipelineConfig
from medrl.pipeline.fingerprint import fingerprints
from medrl.pipeline.plan import Step, plan
from medrl.run_dir import write_json
from medrl.workers.cluster import connect

STATE_FILE = "pipeline.json"


def run_pipeline(config: PipelineConfig, folder: Path) -> dict[str, dict[str, Any]]:
    """Run what is new or changed and all that follows from it. `folder`: where the links' YAML files are.

    Returns (and keeps in <output_dir>/pipeline.json) for each link its fingerprint, whether and when (seconds since
    1970) it was finished, and the seconds it took. A link that broke off is resumed from its checkpoints if it has
    them. The links share one Ray cluster. Raises what the stages raise; ConfigError for anything wrong in any config
    before the first link runs.
    """
    steps = plan(config, folder)
    keys, console = fingerprints(steps), Console()
    out = Path(config.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    state = _read_state(out)
    to_do: list[Step] = []
    for step in steps:
        if not _is_done(step, state, keys) or any(other.name in step.shows for other in to_do):
            to_do.append(step)
    needed = max((step.kind.cpus(step.config) for step in to_do), default=0.0)
    with connect(RayConfig(), needed) if needed else nullcontext():
        for step in steps:
            console.rule(step.name)
            if step not in to_do:
                console.print("unchanged: nothing to do", style="dim")
                continue
            begun = state.get(step.name, {}).get("fingerprint") == keys[step.name]
            state[step.name] = {"fingerprint": keys[step.name], "finished": False}
            write_json(out / STATE_FILE, state)
            started = time.monotonic()
            step.kind.run(step.config, begun)
            seconds = round(time.monotonic() - started, 1)
            state[step.name] |= {"finished": True, "seconds": seconds, "at": round(time.time(), 3)}
            write_json(out / STATE_FILE, state)
    return state


def _read_state(out: Path) -> dict[str, dict[str, Any]]:
    file = out / STATE_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _is_done(step: Step, state: dict[str, dict[str, Any]], keys: dict[str, str]) -> bool:
    entry = state.get(step.name, {})
    if not entry.get("finished") or entry["fingerprint"] != keys[step.name]:
        return False
    there = all(Path(output.path).exists() for output in step.outputs.values())
    # A link that was done again, because what it had left was gone, has its old fingerprint.
    return there and all(state.get(link, {}).get("at", 0.0) <= entry.get("at", 0.0) for link in step.shows)
