"""A PPO run that outlives its learners: a lost group is built again, the loop goes on from the newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from medrl.checkpoint import Found
from medrl.config.ppo import PpoConfig
from medrl.errors import WorkerLost
from medrl.faults.budget import FaultBudget
from medrl.stages.ppo_state import newest_checkpoint
from medrl.workers.group import gather
from medrl.workers.launch import Workers

T = TypeVar("T")


def with_recovery(
    attempt: Callable[[Found | None], T], found: Found | None, config: PpoConfig, workers: Workers, budget: FaultBudget
) -> T:
    """What `attempt(checkpoint to start from)` returns in the end, however many learners are lost on the way.

    Rollout, reward and reference pools replace their own. Raises WorkerError when the budget is spent or when a group
    finds no room any more.
    """
    lost: WorkerLost | None = None
    while True:
        try:
            if lost:
                charged, lost = lost, None
                found = rebuild(charged, config, workers, budget)
            return attempt(found)
        except WorkerLost as error:
            lost = error


def rebuild(lost: WorkerLost, config: PpoConfig, workers: Workers, budget: FaultBudget) -> Found | None:
    """Start the lost group's workers again; returns the checkpoint that all learners have to go back to.

    Without a checkpoint every learner has to start as new, so that all of them are built again.
    """
    groups = {group.role: group for group in workers.learners}
    if lost.role not in groups:
        raise lost
    budget.charge(lost.role, ", ".join(lost.workers), lost.got)
    found = newest_checkpoint(config)
    doomed = [groups[lost.role]] if found else list(groups.values())
    gather(*[group.rebuild() for group in doomed])
    for group in doomed:
        budget.events.record("group_rebuilt", role=group.role, workers=len(group))
    workers.rollout.forget()
    step = found[0] if found else 0
    budget.events.record("going_back", to=step, steps_lost=max(0, budget.events.step - 1 - step))
    return found
