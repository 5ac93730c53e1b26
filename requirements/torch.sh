#!/usr/bin/env bash
# Installs the CPU build of PyTorch into the environment whose pip is first in PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

# With pip, not uv: a machine may offer this build through pip's own settings.
pip install -qq --no-deps --requirement requirements/torch-cpu.txt 2>/dev/null ||
    pip install -qq --no-deps --requirement requirements/torch-cpu.txt --retries 1 --index-url https://download.pytorch.org/whl/cpu
