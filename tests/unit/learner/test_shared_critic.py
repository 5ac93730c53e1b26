"""A critic on the policy's base: the numbers of a critic with a base of its own, and nobody disturbs the other."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import torch

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.learner.critic import DeepSpeedCritic
from medrl.learner.engine import init_process
from medrl.learner.policy import DeepSpeedPolicy
from medrl.models.sharing import storage_bytes
from tests.contract.test_learner import experience  # noqa: F401
from tests.tiny import ppo_values

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module", autouse=True)
def process_group():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    init_process(0, 1, "127.0.0.1", port, 60.0)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_it_learns_as_a_separate_one_does_on_one_copy_of_the_base(tmp_path, zero_stage, experience):  # noqa: F811
    values = ppo_values(tmp_path, learner={"micro_batch_size": 3, "zero_stage": zero_stage},
                        critic={"init": "policy", "mode": "shared", "zero_stage": zero_stage})
    config = build_config(PpoConfig, values)
    policy = DeepSpeedPolicy(config, 10)
    shared, separate = DeepSpeedCritic(config, 10, policy.model), DeepSpeedCritic(config, 10)
    base = sum(p.numel() * p.element_size() for p in policy.model.parameters() if not p.requires_grad)
    assert storage_bytes(policy.model, separate.model) - storage_bytes(policy.model, shared.model) == base

    canary, logprobs = policy.reference_canary(), policy.logprobs(experience)
    for seed in (1, 2):
        assert shared.update(experience, seed) == separate.update(experience, seed)
    values_now = shared.values(experience)[0]
    np.testing.assert_array_equal(values_now, separate.values(experience)[0])
    assert np.abs(values_now).max() > 0
    np.testing.assert_array_equal(policy.logprobs(experience), logprobs)

    policy.update(experience, 0.1, 1)
    assert np.abs(policy.logprobs(experience) - logprobs).max() > 1e-5
    np.testing.assert_array_equal(shared.values(experience)[0], values_now)
    assert policy.reference_canary() == canary
