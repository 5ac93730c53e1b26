"""Cases that differ from each other in one thing: a size that grows, or when answers are sampled."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.benchmarks.step.cases import FULL, SHARED_CRITIC, Case

ONCE = replace(FULL, name="one epoch", peer="one epoch", epochs=1)
ONCE_SHARED = replace(SHARED_CRITIC, peer=None, epochs=1)
"""Shorter steps: one pass over a batch grows like four."""


@dataclass(frozen=True)
class Sweep:
    """One size at several values, all else the same."""

    name: str  # of the size
    cases: dict[int, Case]  # by its value
    bounded: bool = True  # whether the least possible time is known to grow with it, on the same cores


def _sized(name: str, **size: int) -> Case:
    """Beside TRL's run at the same size."""
    return replace(ONCE, name=name, peer=name, **size)


def _engines(workers: int) -> Case:
    settings = (f"rollout.workers={workers}", "rollout.threads_per_worker=1")
    return replace(ONCE, name=f"engines {workers}", peer=None, own=settings)


def _ranks(workers: int) -> Case:
    """Policy and critic in the same processes, so that a rank is a core."""
    settings = (f"learner.workers={workers}", "learner.threads_per_worker=1")
    return replace(ONCE_SHARED, name=f"ranks {workers}", own=ONCE_SHARED.own + settings)


SWEEPS = (
    Sweep("prompts", {32: _sized("prompts ×½", prompts=32), 64: ONCE, 128: _sized("prompts ×2", prompts=128)}),
    Sweep("answer tokens", {
        32: _sized("answers ×½", answer_tokens=32), 64: ONCE, 128: _sized("answers ×2", answer_tokens=128)}),
    Sweep("model width", {128: _sized("width ×½", width=128), 256: ONCE, 512: _sized("width ×2", width=512)}),
    Sweep("rollout engines", {workers: _engines(workers) for workers in (1, 2)}, bounded=False),
    Sweep("learner ranks", {workers: _ranks(workers) for workers in (1, 2)}, bounded=False),
)
IN_TURNS = replace(ONCE, name="in turns", peer=None, own=("algorithm.importance=truncate",))
AHEAD = replace(ONCE, name="ahead", own=(*IN_TURNS.own, "rollout.max_staleness=1"))
VARIED = {case.name: case for sweep in SWEEPS for case in sweep.cases.values()} | {
    case.name: case for case in (IN_TURNS, AHEAD)}
