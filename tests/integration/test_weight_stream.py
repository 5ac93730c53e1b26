"""Full weights as streams from the policy's rank 0 to engines, on real Ray workers; sockets in the place of NCCL."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from medrl.config.ppo import PpoConfig
from medrl.errors import WorkerLost
from medrl.types import SyncReport
from medrl.workers.offers import StreamedOffer
from tests.integration.processes import struck
from tests.integration.test_elastic_rollouts import Started, eventually, launched, same

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def ray_with_fake_nccl() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=12, include_dashboard=False, log_to_driver=False,
             runtime_env={"worker_process_setup_hook": "tests.integration.socket_channels.install",
                          "env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}})
    yield
    ray.shutdown()


def streaming(config: PpoConfig) -> PpoConfig:
    """What the config refuses without GPUs."""
    return config.model_copy(update={"rollout": config.rollout.model_copy(update={"weight_transfer": "nccl"})})


def sync(run: Started, version: int) -> tuple[StreamedOffer, list[SyncReport]]:
    offer = run.workers.policy.export_weights(version, run.inputs.probe_ids)
    assert isinstance(offer, StreamedOffer)
    return offer, run.workers.rollout.sync(offer).result()


def test_engines_that_die_fall_silent_or_come_late_hold_up_nobody(
        ray_with_fake_nccl, tiny_run: Path, tmp_path: Path) -> None:
    with launched(tiny_run, tmp_path / "events.jsonl", change=streaming, lora=None, reference={"mode": "dedicated"},
                  rollout={"engine": "hf", "workers": 2}, timeouts={"sync": 15}) as run:
        offer, reports = sync(run, 0)
        assert [report.version for report in reports] == [0, 0] and offer._stored is None
        assert reports[0].fingerprint == reports[1].fingerprint
        before = run.generate()
        for version, blow in ((1, signal.SIGKILL), (2, signal.SIGSTOP)):
            with struck("RolloutWorker", "receive_stream", blow) as hit:
                offer, reports = sync(run, version)
            assert len(hit) == 1 and [report.version for report in reports] == [version]
            assert len(run.events("worker_lost")) == version
            assert offer._stored is None and {c.version for c in run.generate()} == {version}

            def joined(so_far: int = version) -> bool:
                run.generate()
                return len(run.events("worker_joined")) == so_far

            eventually(joined)  # the replacement
            assert offer._stored is not None
        offer, reports = sync(run, 2)
        assert len(reports) == 2 and offer._stored is None
        for a, b in zip(run.generate(), before, strict=True):
            assert (a.prompt.id, a.ids) == (b.prompt.id, b.ids)
        with struck("PolicyWorker", "stream_weights") as hit, pytest.raises(WorkerLost, match="are gone") as caught:
            sync(run, 3)
        assert len(hit) == 1 and caught.value.role == "policy"


def test_a_late_engine_of_a_dead_policy_is_no_fault_of_its_own(
        ray_with_fake_nccl, tiny_run: Path, tmp_path: Path) -> None:
    import ray

    with launched(tiny_run, tmp_path / "events.jsonl", change=streaming, lora=None, reference={"mode": "dedicated"},
                  rollout={"engine": "hf", "workers": 1, "max_workers": 2}) as run:
        sync(run, 0)
        before = run.generate()
        same(run.generate(), before)
        ray.kill(run.workers.policy.handles[0])

        def told() -> bool:
            try:
                run.generate()
            except WorkerLost as error:
                assert error.role == "policy" and "weights are gone" in str(error)
                return True
            return False

        eventually(told)  # when the second engine has started and asks for the weights
        assert not run.events("worker_lost")
