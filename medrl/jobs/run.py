"""What a submitted job runs on the cluster: one medrl command, and again when it fails, as often as was asked for.

`python -m medrl.jobs.run --python 3.11 --retries 2 ppo config.yaml`
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from medrl.errors import ClusterError, MedrlError
from medrl.jobs.stages import RESUMABLE

MISTAKE = MedrlError.exit_code  # in the config or the data: it would come again
RESUME = "--resume"


class Attempts:
    """A medrl command that is started again when it fails, unless it was told to stop or the mistake is the user's."""

    def __init__(self, words: Sequence[str], retries: int) -> None:
        self.words = list(words)
        self.retries = retries
        self._stopped = False

    def stop(self, _signum: int, _frame: FrameType | None) -> None:
        """Ray sends SIGTERM to this process and to the command alike."""
        self._stopped = True

    def run(self) -> int:
        """The exit code of the last attempt; 128 + n when signal n ended it."""
        for attempt in range(self.retries + 1):
            again = [RESUME] if attempt and self.words[0] in RESUMABLE and RESUME not in self.words else []
            code = subprocess.run([sys.executable, "-m", "medrl", *self.words, *again]).returncode
            code = 128 - code if code < 0 else code
            if code in (0, MISTAKE) or self._stopped or attempt == self.retries:
                break
            print(f"exit code {code}: starting again, {attempt + 1} of {self.retries} times", flush=True)
        return code


def check_python(wanted: str) -> None:
    """ClusterError unless this is the Python the job was submitted from."""
    found = ".".join(map(str, sys.version_info[:2]))
    if found != wanted:
        raise ClusterError("the cluster runs another Python", limit=f"Python {wanted}, as here", got=f"Python {found}",
                           remedy=f"submit with Python {found}, or start the cluster with Python {wanted}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="medrl.jobs.run")
    parser.add_argument("--python", required=True)
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    try:
        check_python(options.python)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    attempts = Attempts(options.words, options.retries)
    signal.signal(signal.SIGTERM, attempts.stop)
    sys.exit(attempts.run())


if __name__ == "__main__":
    main()
