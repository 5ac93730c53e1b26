"""`make conformance`: clients in an environment of their own (requirements/clients.txt) against one service."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conformance.service import tiny_service

FOLDER = Path(__file__).parent
PYTHON = FOLDER.parents[1] / ".venv-clients/bin/python"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, tiny_service(Path(folder)) as service:
        command = [PYTHON, "-m", "pytest", FOLDER, f"--confcutdir={FOLDER}", *sys.argv[1:]]
        return subprocess.run(command, env=service.environment()).returncode


if __name__ == "__main__":
    sys.exit(main())
