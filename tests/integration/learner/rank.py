"""One rank of a learner group, as a process of its own: `python rank.py JOB.pickle RANK WORLD PORT OUT.pickle`.

The job is a dict of tasks (role, config, calls), a call being (method, arguments); the method "parameters" answers
with whole copies of the trainable parameters, "chunk_elements" sets how many logits exist at a time from then on. An
error of medrl's that a task raises is its result.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.errors import MedrlError
from medrl.learner.actor_critic import DeepSpeedActorCritic
from medrl.learner.critic import DeepSpeedCritic
from medrl.learner.engine import init_process
from medrl.learner.policy import DeepSpeedPolicy
from medrl.models import head

LEARNERS = {"policy": DeepSpeedPolicy, "critic": DeepSpeedCritic, "actor-critic": DeepSpeedActorCritic}
TOTAL_UPDATES = 100


def parameters(learner) -> dict[str, torch.Tensor]:
    named = {name: p for name, p in learner.engine.deepspeed.module.named_parameters() if p.requires_grad}
    with learner.engine.gathered(list(named.values())):
        return {name: p.detach().clone() for name, p in named.items()}


def answer(learner, method: str, arguments: tuple):
    if method == "parameters":
        return parameters(learner)
    if method == "chunk_elements":
        return setattr(head, "CHUNK_ELEMENTS", *arguments)
    try:
        return getattr(learner, method)(*arguments)
    except MedrlError as error:
        return error


def main(job: str, rank: str, world: str, port: str, out: str) -> None:
    torch.set_num_threads(1)
    init_process(int(rank), int(world), "127.0.0.1", int(port), 600.0)
    results = {}
    for name, (role, config, calls) in pickle.loads(Path(job).read_bytes()).items():
        try:
            learner = LEARNERS[role](build_config(PpoConfig, config), TOTAL_UPDATES)
        except MedrlError as error:
            results[name] = error
        else:
            results[name] = [answer(learner, method, arguments) for method, arguments in calls]
    Path(out).write_bytes(pickle.dumps(results))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
