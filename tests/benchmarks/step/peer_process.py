"""TRL's side of a case, in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.benchmarks.step.cases import Case

SCRIPT = Path(__file__).with_name("peer.py")
PYTHON = Path(__file__).parents[3] / ".venv-trl/bin/python"


def run_peer(case: Case, world: Path, steps: int, threads: int, folder: Path) -> dict[str, list[float]]:
    """Seconds of every step but the first: in all, of the generation, and of the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    case.dump(folder / "case.json")
    paths = [str(path.absolute()) for path in (folder / "case.json", world, folder / "times.json")]
    command = [PYTHON, SCRIPT.name, *paths[:2], str(steps), str(threads), paths[2]]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with (folder / "log.txt").open("w") as log:
        subprocess.run(command, check=True, cwd=SCRIPT.parent, env=environment, stdout=log, stderr=subprocess.STDOUT,
                       timeout=3600)
    times = json.loads((folder / "times.json").read_text(encoding="utf-8"))
    return {"step": times["steps"][1:], "generate": times["generate"][1:]}
