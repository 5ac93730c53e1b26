"""A tiny model on disk, recorded rollouts, and groups of real DeepSpeed ranks in processes of their own."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from medrl.models import head
from medrl.types import Experience
from tests.tiny import ppo_values

ROWS, WIDTH, VOCABULARY = 14, 15, 300


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Tiny models: policy/ and reward/ (calibrated), one tokenizer."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def make_config(folder):
    """Plain values of a PpoConfig. `learner` overwrites the sections of both learners, `algorithm` its own."""

    def make(*, lora: bool = True, dtype: str = "float32", algorithm: dict | None = None, critic: dict | None = None,
             **learner) -> dict:
        adapter = {"rank": 4, "alpha": 8.0} if lora else None
        optimizer = {"lr": 1e-3, "warmup_steps": 2, "max_grad_norm": 0.5}
        return ppo_values(
            folder, model={"path": str(folder / "policy"), "dtype": dtype}, lora=adapter,
            data={"batch_size": ROWS}, sampling={"max_tokens": 9, "temperature": 0.7},
            algorithm={"epochs": 2, "mini_batches": 2, "kl": {"use": "loss", "estimator": "k2", "coef": 0.1},
                       "entropy_coef": 0.01} | (algorithm or {}),
            learner={"optimizer": optimizer} | learner,
            critic={"optimizer": optimizer, "lora": adapter} | learner | (critic or {}),
            reference={"mode": "shared" if lora else "dedicated"})

    return make


@pytest.fixture(scope="session")
def experience() -> Experience:
    """Recorded answers of 1 to 9 tokens, one row without any. The old log-probs are not the model's, so clips act."""
    rng = np.random.default_rng(7)
    b, t = ROWS, WIDTH
    prompts, answers = rng.integers(2, 7, b), rng.integers(1, 10, b)
    answers[3], answers[5] = 0, 1
    position = np.arange(t)
    real = position < (prompts + answers)[:, None]
    response = real & (position >= prompts[:, None])

    def tokens(centre: float, spread: float) -> np.ndarray:
        return np.where(response, rng.normal(centre, spread, (b, t)), 0).astype(np.float32)

    return Experience(
        ids=np.where(real, rng.integers(3, VOCABULARY, (b, t)), 0), attention_mask=real, response_mask=response,
        engine_logprobs=tokens(-5.8, 0.1), ended=rng.random(b) < 0.8, logprobs=tokens(-5.8, 0.15),
        ref_logprobs=tokens(-5.8, 0.15), values=tokens(0, 0.3), rewards=tokens(0, 1), advantages=tokens(0, 1),
        returns=tokens(0, 1), importance=np.abs(tokens(1, 0.2)), scores=np.zeros(b, np.float32),
        raw_scores=np.zeros(b, np.float32))


@pytest.fixture(scope="session")
def on_policy(folder, make_config, experience) -> Experience:
    """The same answers with the untrained policy's own log-probs as the old ones."""
    make_config()  # writes the models
    logprobs = policy_logprobs(AutoModelForCausalLM.from_pretrained(folder / "policy"), experience, temperature=0.7)
    return replace(experience, logprobs=logprobs.detach().numpy(), ref_logprobs=logprobs.detach().numpy())


def policy_logprobs(model, batch, temperature: float) -> torch.Tensor:
    """[B, T] log-probs of the response tokens, straight from the definition, on right-padded rows."""
    ids = torch.tensor(batch.ids)
    logits = model(input_ids=ids, attention_mask=torch.tensor(batch.attention_mask).long()).logits
    chosen = torch.log_softmax(logits[:, :-1] / temperature, -1).gather(-1, ids[:, 1:, None])[..., 0]
    return torch.nn.functional.pad(chosen, (1, 0)) * torch.tensor(batch.response_mask)


def steep(experience: Experience, seed: int) -> Experience:
    """One response token in each mini-batch, so large an advantage that the loss is finite and its gradient is not."""
    rows = np.array_split(np.random.default_rng(seed).permutation(ROWS), 2)
    mask = np.zeros_like(experience.response_mask)
    for mini_batch in rows:
        row = next(b for b in mini_batch if experience.response_mask[b].any())
        mask[row, experience.response_mask[row].argmax()] = True
    return replace(experience, response_mask=mask, advantages=np.where(mask, np.float32(1.5e38), 0))


@pytest.fixture(scope="session")
def run_ranks(tmp_path_factory):
    """Run named tasks on `world` ranks; answers [rank][task][call]."""

    def run(world: int, tasks: dict[str, tuple[str, dict, list[tuple[str, tuple]]]]) -> list[dict[str, list]]:
        job = tmp_path_factory.mktemp("job")
        (job / "tasks").write_bytes(pickle.dumps(tasks))
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = str(s.getsockname()[1])
        here = Path(__file__).parent
        environment = os.environ | {
            "OMP_NUM_THREADS": "1", "PYTHONPATH": str(here.parents[2]), "PYTHONWARNINGS": "ignore"}
        ranks = [
            subprocess.Popen([sys.executable, str(here / "rank.py"), str(job / "tasks"), str(rank), str(world), port,
                              str(job / f"out{rank}")], env=environment)
            for rank in range(world)
        ]
        try:
            codes = [process.wait(timeout=1100) for process in ranks]
        finally:
            for process in ranks:
                process.kill()
        assert codes == [0] * world
        return [pickle.loads((job / f"out{rank}").read_bytes()) for rank in range(world)]

    return run


STAGES = (0, 2, 3)
FULL_BATCH = 32  # one micro-batch a rank
PROBE = (5, 17, 300, 42, 8, 99)
HEAD_OPTIMIZER = {"lr": 5e-3, "schedule": "constant"}
HEAD = {"mode": "head", "init": "policy", "lora": None, "coef": 0.5}
TARGET_KL = 0.004  # `experience` is further from the policy than that, an update on `on_policy` stays within


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def learn(make_config, experience, checkpoints):
    """The tasks whose results must not depend on ranks, micro-batches and ZeRO stage."""

    def build(stage: int, micro_batch_size: int) -> dict[str, tuple]:
        shape, folder = {"zero_stage": stage, "micro_batch_size": micro_batch_size}, f"{checkpoints}/{stage}"
        policy_calls = [
            ("parameters", ()), ("logprobs", (experience,)), ("update", (experience, 0.1, 3)), ("parameters", ()),
            ("export_weights", (PROBE,)), ("ref_logprobs", (experience,)),
        ]
        policy_again = [("save", (f"{folder}/policy",)), ("update", (experience, 0.2, 4)), ("parameters", ())]
        critic_calls = [
            ("parameters", ()), ("values", (experience,)), ("update", (experience, 3)), ("parameters", ()),
            ("save", (f"{folder}/critic",)), ("update", (experience, 4)), ("parameters", ()),
        ]
        return {
            "policy": ("policy", make_config(**shape), policy_calls + policy_again),
            "full": ("policy", make_config(lora=False, **shape), [*policy_calls, ("save", (f"{folder}/full",))]),
            "critic": ("critic", make_config(**shape), critic_calls),
            "head": ("actor-critic", make_config(critic=HEAD, **shape), policy_calls[:4]),
        }

    return build


@pytest.fixture(scope="session")
def guard(make_config, experience, on_policy):
    """The tasks in which something goes wrong, or must not change."""

    def build(stage: int) -> dict[str, tuple]:
        shape = {"zero_stage": stage, "micro_batch_size": 1}
        config = make_config(algorithm={"target_kl": TARGET_KL}, **shape)
        broken = replace(experience, advantages=np.where(experience.response_mask, np.nan, 0).astype(np.float32))
        parameters, good = ("parameters", ()), ("update", (on_policy, 0.1, 3))
        few, all_at_once = ("chunk_elements", (3 * VOCABULARY,)), ("chunk_elements", (head.CHUNK_ELEMENTS,))
        update = ("update", (experience, 0.1, 3))
        chunked = [few, ("logprobs", (experience,)), update, parameters, all_at_once]
        packed = make_config(zero_stage=stage, micro_batch_size=3, micro_batch_tokens=80, packing=True)
        half = [("logprobs", (experience,)), ("ref_logprobs", (experience,)), good, parameters]
        return {
            "undisturbed": ("policy", config, [good, parameters]),
            "disturbed": ("policy", config, [
                parameters, ("update", (broken, 0.1, 3)), parameters, ("update", (experience, 0.1, 3)), parameters,
                good, parameters, ("update", (steep(on_policy, seed=3), 0.1, 3)), parameters]),
            "canary": ("policy", make_config(algorithm={"epochs": 1, "mini_batches": 1}, **shape),
                       [("reference_canary", ()), *[("update", (experience, 0.1, 3))] * 10, ("reference_canary", ())]),
            "checkpointed": ("policy", make_config(gradient_checkpointing=True, **shape), [good, parameters]),
            "chunked-policy": ("policy", make_config(**shape), chunked),
            "chunked-full": ("policy", make_config(lora=False, **shape), chunked),
            "packed-policy": ("policy", packed, [("logprobs", (experience,)), update, parameters]),
            "packed-critic": ("critic", packed, [("values", (experience,)), ("update", (experience, 3)), parameters]),
            "half": ("policy", make_config(dtype="bfloat16", **shape), half),
            "half-full": ("policy", make_config(dtype="bfloat16", lora=False, **shape), [parameters, good, parameters]),
        }

    return build


@pytest.fixture(scope="session")
def two_ranks(run_ranks, learn, guard) -> list[dict[str, list]]:
    """Two ranks × four micro-batches (rank 1's last a stand-in), at every ZeRO stage: [rank]["0-policy"][call]."""
    return run_ranks(2, {
        f"{stage}-{name}": task for stage in STAGES for name, task in (learn(stage, 1) | guard(stage)).items()})


@pytest.fixture(scope="session")
def one_rank(run_ranks, two_ranks, learn, make_config, experience, checkpoints, tmp_path_factory) -> dict[str, list]:
    """One rank × one micro-batch, ZeRO 0; and attempts to restore what `two_ranks` saved."""
    shape = {"micro_batch_size": FULL_BATCH}
    first_calls = {name: (role, config, calls[:4]) for name, (role, config, calls) in learn(0, FULL_BATCH).items()}
    critic_calls = first_calls["critic"][2]
    restore = [("load", (f"{checkpoints}/0/policy",))]
    look = ("parameters", ())
    go_on = {name: [("load", (f"{checkpoints}/0/{name}",)), look] for name in ("policy", "full", "critic")}
    go_on["policy"] += [("save", (f"{checkpoints}/one/policy",)), ("update", (experience, 0.2, 4)), look]
    go_on["critic"] += [("update", (experience, 4)), look]
    return run_ranks(1, first_calls | {
        "critic-full": ("critic", make_config(critic={"lora": None}, **shape), critic_calls),
        "full-head": ("actor-critic", make_config(critic=HEAD | {"optimizer": HEAD_OPTIMIZER}, lora=False, **shape),
                      first_calls["full"][2]),
        "critic-policy": ("critic", make_config(critic={"init": "policy"}, **shape), critic_calls[1:2]),
        "fewer-policy": ("policy", make_config(**shape), go_on["policy"]),
        "fewer-full": ("policy", make_config(lora=False, **shape), go_on["full"]),
        "fewer-critic": ("critic", make_config(**shape), go_on["critic"]),
        "fewer ranks": ("policy", make_config(zero_stage=2, **shape), [("load", (f"{checkpoints}/2/policy",))]),
        "other stage": ("policy", make_config(zero_stage=2, **shape), restore),
        "nothing": ("critic", make_config(**shape), [("load", (str(tmp_path_factory.mktemp("empty")),))]),
    })[0]
