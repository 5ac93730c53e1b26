#!/usr/bin/env bash
# Installs the built wheel with its cpu extra into a clean environment, as a user would, and tries it there.
set -euo pipefail
cd "$(dirname "$0")/.."

wheel=$(echo "$PWD"/dist/medrl-*.whl)
missing=$(comm -23 <(git ls-files medrl serve | sort) <(python -m zipfile -l "$wheel" | awk '{print $1}' | sort))
[[ -z $missing ]] || { echo "the wheel lacks $missing"; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/venv"
unset PYTHONPATH VIRTUAL_ENV
export PIP_DISABLE_PIP_VERSION_CHECK=1

echo "installing ${wheel##*/}[cpu]"
"$folder/venv/bin/pip" install -qq --no-compile "$wheel[cpu]" 2>/dev/null ||
    "$folder/venv/bin/pip" install -qq --no-compile "$wheel[cpu]" --extra-index-url https://download.pytorch.org/whl/cpu
# Where these came as CUDA builds, medrl says so and names this remedy.
"$folder/venv/bin/pip" uninstall -qq --yes torchvision torchaudio torchcodec

cd "$folder"
export PATH="$folder/venv/bin:$PATH"
medrl --help >/dev/null
python -m medrl config-docs | grep -q 'medrl ppo CONFIG'
python - <<'PY'
import deepspeed, peft, ray, trl, vllm
import medrl.check, medrl.tour.run, medrl.stages.merge, medrl.stages.ppo, medrl.stages.pretrain, medrl.stages.reward, medrl.stages.sft
import medrl.serving, serve.app, serve.reward

assert "site-packages" in medrl.stages.ppo.__file__, medrl.stages.ppo.__file__
assert len(list(medrl.tour.run.demo_configs().glob("*.yaml"))) >= 4
PY
echo "the wheel works with its cpu extra"

uv pip compile --quiet --python-version 3.12 --python-platform x86_64-manylinux_2_28 - <<<"medrl[gpu] @ file://$wheel" |
    grep -E '^vllm==' && echo "its gpu extra resolves"
