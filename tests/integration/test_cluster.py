"""Jobs on a real cluster of two nodes with token authentication, started by cluster/local.sh."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.clusters import ROOT, Cluster, local_cluster
from tests.tiny import ppo_values, save_policy

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NODES, CPUS = 2, 3
REFUSED_S = 15.0  # from the command's start to its error

# Run in a driver of its own: what the cluster lacks is said before any worker starts.
CHECKS = """
import dataclasses
from medrl.config.common import RayConfig
from medrl.errors import WorkerError
from medrl.workers.capacity import RolePlan
from medrl.workers.cluster import connect
from medrl.workers.placement import check_cluster
plan = RolePlan("rollout", 2, 3.0, 0.0, None, "SPREAD", paths=(EXISTS,))
with connect(RayConfig(address="auto")):
    check_cluster({"rollout": plan})
    for change in ({"paths": (EXISTS, "/nowhere/model")}, {"cpus": 4.0, "workers": 1}, {"strategy": "STRICT_PACK"}):
        try:
            check_cluster({"rollout": dataclasses.replace(plan, **change)})
        except WorkerError as error:
            print("REFUSED", str(error).replace(chr(10), " "))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with local_cluster(tmp_path_factory.mktemp("home"), NODES, CPUS) as started:
        yield started


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small evaluation: perplexity of one passage."""
    folder = tmp_path_factory.mktemp("evaluate")
    save_policy(folder / "model")
    (folder / "text.jsonl").write_text(json.dumps({"text": "Rest, drink water, and see a doctor."}) + "\n")
    values = {
        "name": "tiny", "output_dir": str(folder / "runs"), "model": {"path": str(folder / "model")},
        "sets": [{"name": "passages", "task": "text", "path": str(folder / "text.jsonl")}],
        "sampling": {"max_tokens": 8}, "max_length": 64, "rollout": {"engine": "hf"},
    }
    (folder / "evaluate.yaml").write_text(yaml.safe_dump(values))
    return folder / "evaluate.yaml"


def test_a_job_runs_is_waited_for_and_listed(cluster: Cluster, config: Path) -> None:
    done = cluster.medrl("submit", "evaluate", str(config), "--name", "first", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "asked  evaluation" in done.stdout and done.stdout.rstrip().endswith("job first: SUCCEEDED")
    assert json.loads((config.parent / "runs/tiny/evaluation.json").read_text())["results"]
    listed = cluster.medrl("jobs", COLUMNS="120").stdout
    assert "first" in listed and "SUCCEEDED" in listed
    assert "asked  evaluation" in cluster.medrl("logs", "first").stdout
    again = cluster.medrl("submit", "evaluate", str(config), "--name", "first")
    assert again.returncode == 3 and "first" in again.stderr and "Traceback" not in again.stderr


def test_a_request_that_can_never_fit_fails_with_the_numbers(cluster: Cluster, config: Path) -> None:
    done = cluster.medrl("submit", "evaluate", str(config), "rollout.workers=9", "--name", "large", "--wait")
    assert done.returncode == 3, done.stdout
    assert f"(9 CPU, 0 GPU) asked, ({NODES * CPUS} CPU, 0 GPU) there" in done.stdout


@pytest.mark.parametrize("command", ["submit ppo CONFIG --wait", "ppo CONFIG"])
def test_a_run_that_can_never_fit_is_refused_in_seconds(cluster: Cluster, tiny_run: Path, command: str) -> None:
    config = tiny_run / "large.yaml"
    config.write_text(yaml.safe_dump(ppo_values(tiny_run, name="large", rollout={"engine": "hf", "workers": 9})))
    started = time.monotonic()
    done = cluster.medrl(*command.replace("CONFIG", str(config)).split(), **cluster.driver)
    took = time.monotonic() - started
    text = done.stdout + done.stderr
    assert done.returncode == 3 and "(12 CPU, 0 GPU) asked, (6 CPU, 0 GPU) there" in text, text
    assert "asked  rollout  9 × (1 CPU, 0 GPU) spread" in text and "there  nodes    2 × (3 CPU, 0 GPU)" in text
    print(f"\nrefused after {took:.1f} s")
    assert took < REFUSED_S


def test_a_job_that_is_stopped(cluster: Cluster, config: Path) -> None:
    assert cluster.medrl("submit", "evaluate", str(config), "--name", "stopped").returncode == 0
    assert "asked to stop" in cluster.medrl("stop", "stopped").stdout
    followed = cluster.medrl("logs", "stopped", "--follow")
    assert followed.returncode != 0 and "job stopped: STOPPED" in followed.stdout
    assert "had already ended: STOPPED" in cluster.medrl("stop", "stopped").stdout


def test_a_wrong_token_is_refused(cluster: Cluster, config: Path) -> None:
    done = cluster.medrl("submit", "evaluate", str(config), RAY_AUTH_TOKEN="wrong")
    assert done.returncode == 3 and "does not let us in" in done.stderr and "Traceback" not in done.stderr


def test_nothing_listens_beyond_this_machine(cluster: Cluster) -> None:
    processes = [cluster.process, *cluster.process.children(recursive=True)]
    sockets = [connection for process in processes for connection in process.net_connections("tcp")]
    listening = {s.laddr.ip.removeprefix("::ffff:") for s in sockets if s.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_nodes_are_checked_before_workers_start(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "checks.py"
    script.write_text(f"EXISTS = {str(tmp_path)!r}\n{CHECKS}")
    done = cluster.python(str(script), **cluster.driver, PYTHONPATH=str(ROOT))
    refused = [line for line in done.stdout.splitlines() if line.startswith("REFUSED")]
    assert len(refused) == 3, done.stdout + done.stderr
    assert refused[0].count("/nowhere/model  is not on  127.0.0.1") == NODES and str(tmp_path) not in refused[0]
    assert "room for 0" in refused[1] and "the best node has room for 1" in refused[2]
