"""What every learner must do, whatever it trains: on real DeepSpeed, one rank, in this process."""

from __future__ import annotations

import resource
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch

from medrl.config.base import build_config
from medrl.config.learner import CriticConfig, OptimizerConfig
from medrl.config.ppo import PpoConfig
from medrl.errors import CheckpointError, ConfigError, TrainingError
from medrl.learner.actor_critic import DeepSpeedActorCritic
from medrl.learner.critic import DeepSpeedCritic
from medrl.learner.engine import init_process
from medrl.learner.policy import DeepSpeedPolicy
from medrl.lora.merge import merge_adapter
from medrl.models.sharing import storage_bytes
from medrl.types import Experience
from medrl.weight_sync.publisher import fingerprint
from tests.tiny import ppo_values
from tests.unit.lora.tiny_families import tiny_model

pytestmark = pytest.mark.heavy
HEAD = CriticConfig(mode="head", init="policy", optimizer=OptimizerConfig(lr=1e-2))


@pytest.fixture(scope="module", autouse=True)
def process_group():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    init_process(0, 1, "127.0.0.1", port, 60.0)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> PpoConfig:
    return build_config(PpoConfig, ppo_values(tmp_path_factory.mktemp("models"), learner={"micro_batch_size": 3}))


@pytest.fixture(scope="module")
def experience() -> Experience:
    rng = np.random.default_rng(0)
    position, lengths = np.arange(12), np.array([12, 5, 9, 8])[:, None]
    real = position < lengths
    response = real & (position >= 4)

    def tokens(centre: float, spread: float) -> np.ndarray:
        return np.where(response, rng.normal(centre, spread, response.shape), 0).astype(np.float32)

    return Experience(
        ids=np.where(real, rng.integers(3, 300, real.shape), 0), attention_mask=real, response_mask=response,
        engine_logprobs=tokens(-5.8, 0.1), ended=np.ones(4, bool), logprobs=tokens(-5.8, 0.1),
        ref_logprobs=tokens(-5.8, 0.1), values=tokens(0, 0.1), rewards=tokens(0, 1), advantages=tokens(0, 1),
        returns=tokens(0, 1), importance=np.ones(response.shape, np.float32), scores=np.zeros(4, np.float32),
        raw_scores=np.zeros(4, np.float32))


class Policy:
    """The policy learner through the calls both kinds share."""

    make = DeepSpeedPolicy

    @staticmethod
    def forward(learner: DeepSpeedPolicy, batch: Experience) -> np.ndarray:
        return learner.logprobs(batch)

    @staticmethod
    def update(learner: DeepSpeedPolicy, experience: Experience, seed: int = 1) -> dict[str, float]:
        return learner.update(experience, 0.1, seed)


class Critic:
    """The critic likewise."""

    make = DeepSpeedCritic

    @staticmethod
    def forward(learner: DeepSpeedCritic, batch: Experience) -> np.ndarray:
        return learner.values(batch)[0]

    @staticmethod
    def update(learner: DeepSpeedCritic, experience: Experience, seed: int = 1) -> dict[str, float]:
        return learner.update(experience, seed)


class PolicyWithValueHead(Policy):
    """The policy with the critic as a head on it."""

    @staticmethod
    def make(config: PpoConfig, total_updates: int) -> DeepSpeedPolicy:
        return DeepSpeedActorCritic(config.model_copy(update={"critic": HEAD}), total_updates)


@pytest.fixture(params=[Policy, Critic, PolicyWithValueHead])
def kind(request):
    return request.param


def test_describes_the_engine_really_used(kind, config):
    facts = kind.make(config, 10).describe()
    assert facts["engine"] == "deepspeed.runtime.engine.DeepSpeedEngine"
    assert facts["trainable"] and all({"name", "shape", "dtype", "count"} <= row.keys() for row in facts["trainable"])


def test_forward_fills_response_tokens_only_and_keeps_the_order_of_rows(kind, config, experience):
    learner = kind.make(config, 10)
    result = kind.forward(learner, experience)
    assert result.shape == experience.ids.shape and result.dtype == np.float32
    assert not result[~experience.response_mask].any() and result[experience.response_mask].all()
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(kind.forward(learner, experience.rows(order)), result[order], atol=2e-6)


def test_an_update_learns_and_the_same_update_repeats_exactly(kind, config, experience):
    first, second, other = (kind.make(config, 10) for _ in range(3))
    before = kind.forward(first, experience)
    metrics = kind.update(first, experience)
    assert kind.update(second, experience) == metrics
    np.testing.assert_array_equal(kind.forward(first, experience), kind.forward(second, experience))
    assert np.abs(kind.forward(first, experience) - before).max() > 1e-4
    kind.update(other, experience, seed=2)
    assert not np.array_equal(kind.forward(first, experience), kind.forward(other, experience))
    assert metrics["optimizer_steps"] == 2 and metrics["grad_norm"] > 0
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("cut", [
    {"micro_batch_tokens": 20}, {"packing": True}, {"micro_batch_tokens": 20, "packing": True}])
def test_cuts_by_tokens_and_packing_change_nothing(kind, config, experience, cut):
    def learn(learner):
        start = [p.detach().clone() for p in learner.engine.deepspeed.parameters() if p.requires_grad]
        outputs, metrics = kind.forward(learner, experience), kind.update(learner, experience)
        end = [p.detach() for p in learner.engine.deepspeed.parameters() if p.requires_grad]
        return outputs, metrics, torch.cat([(b - a).flatten() for a, b in zip(start, end, strict=True)])

    sections = {name: getattr(config, name).model_copy(update=cut) for name in ("learner", "critic")}
    outputs, metrics, change = learn(kind.make(config, 10))
    other_outputs, other_metrics, other_change = learn(kind.make(config.model_copy(update=sections), 10))
    np.testing.assert_allclose(other_outputs, outputs, atol=2e-6)
    assert other_metrics == pytest.approx(metrics, rel=1e-5, abs=1e-6)
    assert (other_change - change).norm() <= 1e-4 * change.norm() > 0


@pytest.mark.parametrize("section", ["learner", "critic"])
def test_packing_is_refused_where_sequences_would_see_each_other(config, section, tmp_path):
    """A new critic's values are all 0, which proves nothing."""
    tiny_model("falcon").save_pretrained(tmp_path)
    values = {"model": config.model.model_copy(update={"path": str(tmp_path)}),
              section: getattr(config, section).model_copy(update={"packing": True})}
    if section == "critic":
        values["critic"] = values["critic"].model_copy(update={"init": "policy"})
    with pytest.raises(ConfigError, match=f"{section}.packing: FalconConfig lets"):
        {"learner": DeepSpeedPolicy, "critic": DeepSpeedCritic}[section](config.model_copy(update=values), 10)


def test_a_mini_batch_without_response_tokens_learns_nothing(kind, config, experience):
    learner = kind.make(config, 10)
    before = kind.forward(learner, experience)
    metrics = kind.update(learner, replace(experience, response_mask=np.zeros_like(experience.response_mask)))
    assert metrics["loss"] == 0 and metrics["grad_norm"] == 0
    np.testing.assert_array_equal(kind.forward(learner, experience), before)


def test_numbers_that_are_not_finite_are_an_error_before_anything_changes(kind, config, experience):
    learner = kind.make(config, 10)
    before = kind.forward(learner, experience)
    nan = np.where(experience.response_mask, np.nan, 0).astype(np.float32)
    with pytest.raises(TrainingError, match="not finite"):
        kind.update(learner, replace(experience, advantages=nan, returns=nan))
    np.testing.assert_array_equal(kind.forward(learner, experience), before)


def test_saved_state_goes_on_exactly_with_its_random_numbers(kind, config, experience, tmp_path):
    learner, restored = kind.make(config, 10), kind.make(config, 10)
    kind.update(learner, experience)
    learner.save(tmp_path)
    drawn, metrics = torch.rand(3), kind.update(learner, experience, seed=2)
    restored.load(tmp_path)
    assert torch.equal(torch.rand(3), drawn)
    assert kind.update(restored, experience, seed=2) == metrics
    np.testing.assert_array_equal(kind.forward(restored, experience), kind.forward(learner, experience))


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_full_weights_are_copied_unless_they_need_not_be(config, experience, stage):
    """Uncopied they are the parameters themselves below ZeRO 3: equal to the copies, until an update."""
    learner = DeepSpeedPolicy(config.model_copy(update={
        "lora": None, "reference": config.reference.model_copy(update={"mode": "dedicated"}),
        "learner": config.learner.model_copy(update={"zero_stage": stage})}), 10)
    (kind, copied, _, probe), (_, own, _, same_probe) = (
        learner.export_weights((5, 17, 300), copied=copied) for copied in (True, False))
    assert kind == "full" and probe == same_probe and copied.keys() == own.keys()
    assert all(copied[name].equal(own[name]) and not own[name].requires_grad for name in copied)
    parameters = {parameter.data_ptr() for parameter in learner.model.parameters() if stage < 3}
    assert not any(tensor.data_ptr() in parameters for tensor in copied.values())
    assert all((tensor.data_ptr() in parameters) == (stage < 3) for tensor in own.values())
    before = fingerprint(copied)
    Policy.update(learner, experience)
    assert fingerprint(copied) == before and (fingerprint(own) == before) == (stage == 3)


def test_a_directory_without_state_is_refused(kind, config, tmp_path):
    with pytest.raises(CheckpointError):
        kind.make(config, 10).load(tmp_path)


def test_a_place_that_cannot_be_written_is_an_error(kind, config, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="could not be written"):
        kind.make(config, 10).save(tmp_path / "file" / "below")


def test_a_full_disk_is_an_error_and_learning_can_go_on(kind, config, experience, tmp_path):
    learner = kind.make(config, 10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # no file may grow beyond 20 kB
    try:
        with pytest.raises(CheckpointError, match="could not be written"):
            learner.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert kind.update(learner, experience)["optimizer_steps"] == 2


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_critic_on_the_policys_base_learns_as_a_separate_one_and_disturbs_nobody(tmp_path, zero_stage, experience):
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


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_value_head_knows_what_a_critic_of_the_same_weights_knows_and_leaves_no_trace(
    config, lora, zero_stage, experience, tmp_path
):
    values = {"critic": HEAD, "learner": config.learner.model_copy(update={"zero_stage": zero_stage})}
    if not lora:
        values |= {"lora": None, "reference": config.reference.model_copy(update={"mode": "dedicated"})}
    config = config.model_copy(update=values)
    policy, plain = DeepSpeedActorCritic(config, 10), DeepSpeedPolicy(config, 10)
    head = policy.critic
    assert not np.any(head.values(experience)[0])
    np.testing.assert_array_equal(policy.logprobs(experience), plain.logprobs(experience))
    canary = policy.reference_canary() if lora else None
    for seed in (1, 2):
        metrics = policy.update(experience, 0.1, seed)
    of_values = head.update(experience, 2)
    assert of_values["value_mean"] != 0 and not of_values.keys() & metrics.keys()
    assert canary is None or policy.reference_canary() == canary

    before, last = head.values(experience)
    assert before[experience.response_mask].all() and not before[~experience.response_mask].any()
    policy.save(tmp_path)
    folder = tmp_path / ("adapter" if lora else "model")
    if lora:
        merge_adapter(str(folder), config.model.path, str(tmp_path / "merged"), "float32")
        folder = tmp_path / "merged"
    trained = config.model.model_copy(update={"path": str(folder)})
    own = DeepSpeedCritic(config.model_copy(update={"critic": CriticConfig(init="policy"), "model": trained}), 10)
    with torch.no_grad(), policy.engine.gathered(list(policy.engine.deepspeed.module.value_head.parameters())):
        own.model.head.load_state_dict(policy.engine.deepspeed.module.value_head.state_dict())
    for got, expected in zip(own.values(experience), (before, last), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)

    exported, expected = (learner.export_weights((5, 17, 300)) for learner in (policy, plain))
    assert exported[0] == expected[0] and exported[1].keys() == expected[1].keys()
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(head.values(experience.rows(order))[0], before[order], atol=2e-6)
