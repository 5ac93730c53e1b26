"""PPO over two nodes between which packets come late, get lost, or do not come at all for a while."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.clusters import wait_until
from tests.namespaces import Pair, pair_of_nodes
from tests.runs import rows, same
from tests.tiny import ppo_values

pytestmark = pytest.mark.slow

STEPS = 4
SECONDS = 270.0  # for a whole run
LIMITS = dict.fromkeys(("generate", "score", "update", "sync", "checkpoint", "collective"), 60) | {"start": 90}
CUT_S = 30.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    try:
        with pair_of_nodes(tmp_path_factory.mktemp("home"), cpus=3) as started:
            yield started
    except OSError as error:
        pytest.skip(f"needs root, iproute2 and /dev/net/tun: {error}")


def write_config(folder: Path, name: str, pair: Pair) -> Path:
    """A rank of the learner takes two CPUs: each node of three has one, and they train across the wire."""
    values = ppo_values(
        folder, name=name, steps=STEPS, checkpoint={"every": 2}, timeouts=LIMITS, ray={"address": pair.address},
        learner={"workers": 2, "cpus_per_worker": 2, "threads_per_worker": 1}, critic={"cpus_per_worker": 0.5},
        reward={"cpus_per_worker": 0.5}, rollout={"engine": "hf"}, faults={"limit": 2})
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def calm(pair: Pair, tiny_run: Path) -> Path:
    """The folder of a run over a perfect wire."""
    code, output = run(pair, tiny_run, "calm")
    assert code == 0, output
    return tiny_run / "runs/calm"


def run(pair: Pair, folder: Path, name: str, cut_after: int | None = None) -> tuple[int, str]:
    """Exit code and output of `medrl ppo`; the wire is cut for CUT_S seconds after step `cut_after`."""
    log = folder / f"{name}.log"
    process = pair.start(log, "-m", "medrl", "ppo", str(write_config(folder, name, pair)))
    try:
        if cut_after is not None:
            wait_until(lambda: len(rows(folder / "runs" / name)) >= cut_after, process, log, SECONDS)
            pair.wire.cut = True
            time.sleep(CUT_S)
            pair.wire.cut = False
        return process.wait(timeout=SECONDS), log.read_text()
    finally:
        process.kill()


def seconds_a_step(run: Path) -> float:
    times = [row["wall_time"] for row in rows(run)]
    return (times[-1] - times[0]) / (len(times) - 1)


def test_delay_and_loss_cost_time_only(pair: Pair, calm: Path, tiny_run: Path) -> None:
    pair.wire.delay, pair.wire.loss = 0.05, 0.02
    try:
        code, output = run(pair, tiny_run, "lossy")
    finally:
        pair.wire.delay, pair.wire.loss = 0.0, 0.0
    assert code == 0, output
    same(rows(calm), rows(tiny_run / "runs/lossy"))
    before, after = seconds_a_step(calm), seconds_a_step(tiny_run / "runs/lossy")
    print(f"\nsteps of {before:.2f} s over the perfect wire; of {after:.2f} s with a round trip of 100 ms, 2 % lost")


def test_a_cut_wire_ends_in_a_result_or_an_error_that_says_what_is_missing(
    pair: Pair, tiny_run: Path, request: pytest.FixtureRequest
) -> None:
    """Ray may give the node beyond the cut up for good, and nowhere else is room for a second rank."""
    started = time.monotonic()
    code, output = run(pair, tiny_run, "cut", cut_after=1)
    print(f"\nexit code {code} after {time.monotonic() - started:.0f} s")
    if code == 0:
        same(rows(request.getfixturevalue("calm")), rows(tiny_run / "runs/cut"))
        return
    assert code == 3 and re.search("^error: .*(workers|room)", output, re.MULTILINE), output
    lost = [event for event in rows(tiny_run / "runs/cut", "events.jsonl") if event["event"] == "worker_lost"]
    assert lost and "Traceback" not in output, output
