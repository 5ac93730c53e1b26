"""`medrl check` on the real Ray, DeepSpeed and vLLM: what it prints is what a worker finds in its process."""

from __future__ import annotations

import json
import re

import pytest

from medrl.check import run_check
from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from tests.tiny import ppo_values

pytestmark = pytest.mark.ray


def test_the_set_up_that_is_printed_is_the_one_of_the_workers(tmp_path, monkeypatch, capsys):
    facts = tmp_path / "facts.json"
    monkeypatch.setenv("SET_UP_OF_WORKER", str(facts))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("GOMP_SPINCOUNT", "1234")
    source = {"name": "record", "function": "tests.integration.rewards:records_its_worker"}
    values = ppo_values(tmp_path, reward={"sources": [source]}, critic={"init": "policy"})
    run_check(build_config(PpoConfig, values))
    said = capsys.readouterr().out
    tables = dict(re.findall(r"set-up of (\w+), on (.*?└)", said, re.DOTALL))
    assert set(tables) == {"policy", "critic", "reward", "rollout"} and "one tiny step ran in" in said
    rows = {role: {cells[0].strip(): cells[1].strip() for line in table.splitlines() if line.startswith("│")
                   for cells in [line.strip("│").split("│")]} for role, table in tables.items()}
    found = json.loads(facts.read_text())
    assert rows["reward"]["reward.threads_per_worker"] == str(found["threads"]) == found["OMP_NUM_THREADS"]
    assert rows["reward"]["GOMP_SPINCOUNT"] == found["GOMP_SPINCOUNT"] == "1234"
    assert rows["rollout"]["rollout.dtype"] == "float32" and rows["policy"]["model.attn_implementation"]
