# Every target works on a fresh clone: .venv is made when it is missing, and updated when a lock or pyproject.toml is newer.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
LOCKS := requirements/uv.txt requirements/torch-cpu.txt requirements/cpu.txt requirements/dev.txt
PYTEST := $(BIN)/python -m pytest
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo serve-demo test test-fast test-slow bench real conformance lint format docs lock wheel wheel-smoke clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: .venv/.stamp ## make or update .venv (CPU)

.venv/.stamp: $(LOCKS) pyproject.toml requirements/install.sh
	@bash requirements/install.sh

demo: setup ## the whole path on a tiny model: pretrain, SFT, reward model, PPO, merge, evaluate
	$(BIN)/medrl demo

serve-demo: setup ## the OpenAI API of the demo's model at 127.0.0.1:8000
	$(BIN)/medrl serve configs/serve/demo.yaml

test: setup ## all tests but the slow ones
	$(PYTEST) -m "not slow"

test-fast: setup ## most unit and contract tests: no Ray, no vLLM, under a minute
	$(PYTEST) tests/unit tests/contract tests/serve tests/cluster -m "not slow and not heavy and not ray and not vllm" -n auto

test-slow: setup .venv-trl/.stamp ## the tests marked slow
	$(PYTEST) -m slow

bench: setup .venv-trl/.stamp ## a PPO step beside TRL's and the least possible, scaling, memory; learning beside TRL's and the optimum
	$(BIN)/python -m tests.benchmarks.step
	$(BIN)/python -m tests.benchmarks.closed_form

.venv-trl/.stamp: requirements/trl.txt requirements/torch-cpu.txt
	rm -rf .venv-trl
	$(BIN)/python -m venv .venv-trl
	PATH=$(CURDIR)/.venv-trl/bin:$$PATH bash requirements/torch.sh
	$(BIN)/uv pip install --quiet --python .venv-trl/bin/python --no-deps --require-hashes --requirement requirements/trl.txt
	touch $@

real: setup ## every stage, a few steps each, on data from elsewhere: make real DATA=DIR
	$(BIN)/python -m tests.real "$(DATA)"

conformance: setup .venv-clients/.stamp ## clients from outside, in an environment of their own, against `medrl serve`
	$(BIN)/python -m tests.conformance

.venv-clients/.stamp: requirements/clients.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-clients
	$(BIN)/uv pip install --quiet --python .venv-clients/bin/python --require-hashes --requirement requirements/clients.txt
	touch $@

lint: setup ## ruff, basedpyright and import-linter
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: setup ## sort imports and apply the safe fixes
	$(BIN)/ruff check --fix .

docs: setup ## regenerate docs/config.md
	$(BIN)/medrl config-docs > docs/config.md

LOCK := $(BIN)/uv pip compile --quiet --upgrade --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	--generate-hashes --no-annotate --no-header

lock: setup ## resolve pyproject.toml into requirements/*.txt again
	$(LOCK) pyproject.toml requirements/torch-cpu.in --extra cpu --extra mlflow --extra postgres --override requirements/overrides.txt -o requirements/cpu.txt
	cp requirements/cpu.txt requirements/gpu.txt  # the same versions wherever CUDA's builds leave a choice
	$(subst --upgrade,,$(LOCK)) pyproject.toml --extra gpu --extra mlflow --extra postgres -o requirements/gpu.txt
	$(LOCK) --group dev --constraint requirements/cpu.txt -o requirements/dev.txt
	$(LOCK) requirements/clients.in -o requirements/clients.txt
	$(LOCK) requirements/trl.in requirements/torch-cpu.in --override requirements/overrides.txt -o requirements/trl.txt
	echo uv | $(LOCK) - -o requirements/uv.txt

wheel: setup ## build dist/medrl-*.whl
	rm -rf dist build
	$(BIN)/python -m build --wheel --no-isolation

wheel-smoke: wheel ## install the wheel with its cpu extra into a clean environment and try it
	bash requirements/wheel_smoke.sh

clean: ## remove .venv, caches and build outputs (runs/ stays)
	rm -rf .venv .venv-clients .venv-trl build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache
