"""Nodes that come and go under a pool, on a cluster of several raylets on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medrl.errors import WorkerLost
from medrl.workers.offers import StoredOffer
from tests.integration.processes import struck
from tests.integration.test_elastic_rollouts import eventually, launched, same

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ENGINES = {"role": "engines"}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head node with room for three workers, and a node for one more."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    try:
        cluster.first = cluster.add_node(num_cpus=1, labels=ENGINES)
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_node_that_comes_is_used_and_one_that_goes_is_done_without(cluster, tiny_run: Path, tmp_path: Path) -> None:
    import ray

    with launched(tiny_run, tmp_path / "events.jsonl", rollout={"engine": "hf", "workers": 1, "max_workers": 2},
                  ray={"labels": {"rollout": ENGINES}}) as run:
        assert len(run.sync(0)) == 1
        before = run.generate()
        cluster.add_node(num_cpus=1, labels=ENGINES)

        def joined() -> bool:
            same(run.generate(), before)
            return bool(run.events("worker_joined"))

        eventually(joined, 120)
        assert len(run.sync(1)) == 2
        before, started = run.generate(), time.monotonic()
        going = threading.Timer(0.3, cluster.remove_node, [cluster.first], {"allow_graceful": False})
        going.start()
        while time.monotonic() < started + 60 and not run.events("worker_lost"):
            same(run.generate(), before)
        going.join()
        lost = run.events("worker_lost")
        assert len(lost) == 1 and lost[0]["worker"].startswith("rollout 0 on "), lost
        assert len(run.sync(2)) == 1 and {c.version for c in run.generate()} == {2}

        @ray.remote(num_cpus=0)
        def payload() -> np.ndarray:
            return np.zeros(1_000_000)

        third = cluster.add_node(num_cpus=0, resources={"third": 1})
        weights = payload.options(resources={"third": 1}, max_retries=0).remote()
        ray.wait([weights], timeout=60, fetch_local=False)
        cluster.remove_node(third, allow_graceful=False)
        with pytest.raises(WorkerLost, match="the weights are gone") as caught:
            run.workers.rollout.sync(StoredOffer(weights)).result()
        assert caught.value.role == "policy"
        # The first replacement may have been sent to the dead node, before Ray knew: that one is lost too.
        assert {row["worker"].split(" on ")[0] for row in run.events("worker_lost")} == {"rollout 0"}


def test_a_node_that_joins_without_the_model_is_refused_and_the_next_one_is_used(
        cluster, tiny_run: Path, tmp_path: Path) -> None:
    import ray

    ray.shutdown()
    ray.init(address=cluster.address, log_to_driver=False,
             runtime_env={"worker_process_setup_hook": "tests.integration.bare_nodes.install"})
    with launched(tiny_run, tmp_path / "events.jsonl", rollout={"engine": "hf", "workers": 1, "max_workers": 2},
                  ray={"labels": {"rollout": ENGINES}}) as run:
        run.sync(0)
        before = run.generate()
        bare = cluster.add_node(num_cpus=1, labels=ENGINES, env_vars={"BARE_NODE": "1"})

        def told(kind: str) -> bool:
            same(run.generate(), before)
            return bool(run.events(kind))

        eventually(lambda: told("node_refused"), 120)
        refused = run.events("node_refused")[0]
        assert refused["role"] == "rollout" and refused["missing"] == str(tiny_run / "policy")
        assert f"(node {bare.node_id[:8]})" in refused["node"]
        for _ in range(5):
            same(run.generate(), before)
        cluster.add_node(num_cpus=1, labels=ENGINES)
        eventually(lambda: told("worker_joined"), 120)
        assert len(run.sync(1)) == 2
        assert len(run.events("node_refused")) == 1 and not run.events("worker_lost")


def test_engines_that_only_joined_make_room_for_a_scorer(cluster, tiny_run: Path, tmp_path: Path) -> None:
    sources = [{"name": "length", "function": "tests.integration.rewards:slow_length"}]
    with launched(tiny_run, tmp_path / "events.jsonl", rollout={"engine": "hf", "workers": 1, "max_workers": 4},
                  reward={"sources": sources}) as run:
        run.sync(0)
        texts = run.inputs.score_requests(run.generate())

        def joined() -> bool:
            run.generate()
            return bool(run.events("worker_joined"))

        eventually(joined, 120)  # the cluster is full, and two engines wait for the next place that gets free
        scores = run.workers.reward.score(texts).result().total
        with struck("RewardWorker", "score") as killed:
            np.testing.assert_array_equal(run.workers.reward.score(texts).result().total, scores)
        assert len(killed) == 1 and [row["role"] for row in run.events("worker_lost")] == ["reward"]
        assert len(run.generate()) == len(texts)
