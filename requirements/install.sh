#!/usr/bin/env bash
# Makes or updates .venv from the locks in this folder. `make setup` runs it when they are newer than .venv/.stamp.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "error: $1" >&2; exit 1; }
say() { printf '[%3ds] %s\n' "$SECONDS" "$1"; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "the CPU lock is for Linux on x86_64, this is $(uname -s) on $(uname -m)"
python=$(find_python)
[ -n "$python" ] || fail "no Python 3.11, 3.12 or 3.13 found; install one, or name it: make setup PYTHON=/path/to/python3"
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python cannot make environments; install its venv module (Debian, Ubuntu: apt-get install python3-venv)"
command -v g++ >/dev/null || fail "no C++ compiler (g++), which PyTorch needs for its CPU kernels (Debian, Ubuntu: apt-get install g++)"
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -f "$headers/Python.h" ] || fail "no $headers/Python.h, which PyTorch needs for its CPU kernels (Debian, Ubuntu: apt-get install python3-dev)"

# An environment whose Python was moved, removed or replaced by another version is made anew.
wanted=$("$python" -c 'import sys; print(*sys.version_info[:2])')
found=$(.venv/bin/python -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null || true)
if [ "$wanted" != "$found" ] || ! .venv/bin/pip --version >/dev/null 2>&1; then
    say "making .venv with Python ${wanted/ /.}"
    rm -rf .venv
    "$python" -m venv .venv
fi
unset PYTHONDONTWRITEBYTECODE VIRTUAL_ENV PYTHONPATH
export PATH="$PWD/.venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1

say "installing uv"
pip install -qq --require-hashes --requirement requirements/uv.txt

say "installing the CPU build of PyTorch"
bash requirements/torch.sh ||
    fail "no CPU build of PyTorch for Python ${wanted/ /.}: neither the default index nor PyTorch's own has it, or neither can be reached"

say "installing the locked packages"
uv pip install --quiet --python .venv/bin/python --no-deps --require-hashes \
    --requirement requirements/cpu.txt --requirement requirements/dev.txt
uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .

say "compiling bytecode"
# Without it every worker process would compile torch, transformers and vLLM for itself whenever it starts. What no
# worker imports is left out.
seldom='/(tests|testing/_internal|rllib|pip/_vendor|sympy/physics|pygments/lexers)/|/transformers/models/(?!auto/|qwen|llama)'
python -m compileall -qq -j 0 -x "$seldom" .venv/lib || true  # some packages ship templates that are not valid Python

touch .venv/.stamp
say "ready: .venv"
