"""Proximal policy optimisation on Ray: the main loop (formulas: docs/PPO.md)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import ray

from medrl.algo.experience import make_experience
from medrl.checkpoint import Found
from medrl.config.ppo import PpoConfig
from medrl.data.batching import collate
from medrl.faults.budget import FaultBudget
from medrl.faults.events import EventLog
from medrl.mirror import mirror_of, mirrored
from medrl.rollout.base import request_seed
from medrl.run_dir import create_run_dir, write_json
from medrl.stages.ppo_evaluation import evaluate, sample_rows
from medrl.stages.ppo_inputs import PpoInputs, prepare
from medrl.stages.ppo_proofs import check_kl_limit, check_reference, check_start
from medrl.stages.ppo_recovery import with_recovery
from medrl.stages.ppo_rollouts import Rollouts, staleness_metrics
from medrl.stages.ppo_scoring import Scoring
from medrl.stages.ppo_state import LoopState, checkpoint_root, find_checkpoint
from medrl.timer import Timer
from medrl.tracking.base import Tracker, open_tracker
from medrl.types import SyncReport
from medrl.workers.group import gather
from medrl.workers.interrupt import Interrupted, Interrupts
from medrl.workers.launch import Workers, launch_workers
from medrl.workers.profiler import Profiler

SAMPLE_ROWS = 8  # answers of each step kept in samples.jsonl


def run_ppo(config: PpoConfig, resume: bool = False, profile: Sequence[int] = ()) -> dict:
    """Train; returns (and writes to <run>/summary.json) what came out of it. `profile`: consecutive steps to record.

    SIGINT or SIGTERM: a checkpoint of the last finished step, the workers freed, then SystemExit(130 or 143). A second
    signal during an update ends it at once, without a checkpoint.
    """
    started = time.monotonic()
    inputs = prepare(config)
    mirror = mirror_of(config, checkpoint_root(config), config.timeouts.checkpoint, resume=resume)
    found = find_checkpoint(config) if resume else None
    profiler = Profiler(profile, Path(config.run_dir) / "profile")
    profiler.check(found[0] if found else 0, config.steps)
    run_dir = create_run_dir(config, keep=found is not None)
    budget = FaultBudget(config.faults.limit, EventLog(run_dir / "events.jsonl"))
    interrupts = Interrupts()

    def attempt(found: Found | None) -> dict:
        budget.events.record("started", after=found[0] if found else 0)
        state = LoopState.begin(config, inputs.prompts)
        if found:
            state.restore(found, workers)
        rollouts = Rollouts(config, state, workers.rollout)
        with open_tracker(config.tracking, run_dir, config.steps, resume_step=state.step if found else None) as tracker:
            try:
                metrics = train(config, inputs, state, rollouts, workers, tracker, interrupts, budget.events, profiler)
            except Interrupted as interrupt:
                if interrupt.orderly:
                    rollouts.settle()
                    state.save(config, workers)
                raise
            summary = summarise(config, state, workers, metrics)
            summary |= {"workers_lost": budget.spent, "seconds": round(time.monotonic() - started, 1)}
            write_json(run_dir / "summary.json", summary)  # before the trackers close: they may keep it
        profiler.report()
        return summary

    try:
        # The last copy is waited for when the workers are freed.
        with mirrored(mirror), launch_workers(config, inputs.launch, budget) as workers, interrupts.installed():
            return with_recovery(attempt, found, config, workers, budget)
    except Interrupted as interrupt:
        raise SystemExit(interrupt.exit_code) from None


def summarise(config: PpoConfig, state: LoopState, workers: Workers, metrics: dict[str, float]) -> dict:
    """What came out of a finished run; exports its trained part."""
    return {
        "run_dir": config.run_dir,
        "steps": state.step,
        "output": str(state.export(config)),
        "engines": workers.engines,
        "parameter_bytes": workers.parameter_bytes,
        "evaluation_before": state.evaluation_before,
        "evaluation_after": {k.removeprefix("eval/"): v for k, v in metrics.items() if k.startswith("eval/")},
        "last_step": metrics,
    }


def train(
    config: PpoConfig, inputs: PpoInputs, state: LoopState, rollouts: Rollouts, w: Workers, tracker: Tracker,
    interrupts: Interrupts, events: EventLog, profiler: Profiler,
) -> dict[str, float]:
    """The loop; returns the last step's metrics. What changes weights happens in `interrupts.deferred()` blocks."""
    metrics: dict[str, float] = {}
    scoring = Scoring(inputs, w.reward, rollouts)
    with interrupts.deferred():
        begin(config, inputs, state, rollouts, w, tracker)
    for step in range(state.step + 1, config.steps + 1):
        events.step, timer = step, Timer()
        profiler.begin(step, w)
        with timer("generate"):
            completions = rollouts.take(step)
        with timer("rest"):
            w.rollout.rest()
        with timer("score"):  # four forward passes in parallel
            batch, texts = collate(completions, inputs.pad_id), inputs.score_requests(completions)
            batch_ref = ray.put(batch)
            scores, logprobs, ref_logprobs, critic_values = gather(
                scoring.begin(texts),
                w.policy.logprobs(batch_ref),
                w.reference.logprobs(batch_ref),
                w.critic.values(batch_ref) if w.critic else None,
                meanwhile=rollouts.advance,
            )
        experience, rollout_metrics = make_experience(
            batch, scores.total, logprobs, ref_logprobs, critic_values,
            algorithm=config.algorithm, kl_coef=state.kl.coef, group_size=config.data.samples_per_prompt,
        )
        check_start(config, step, experience)
        check_kl_limit(config, step, rollout_metrics)
        evaluates, saves = (due(step, every, config.steps)
                            for every in (config.evaluation.every, config.checkpoint.every))
        with interrupts.deferred():
            with timer("update"):
                seed, experience_ref = request_seed(config.seed, step, "update", 0), ray.put(experience)
                policy_metrics, critic_metrics = gather(
                    w.policy.update(experience_ref, state.kl.coef, seed),
                    w.critic.update(experience_ref, seed) if w.critic else None,
                    meanwhile=rollouts.advance if evaluates else partial(scoring.run_ahead, step + 1),
                )
            with timer("sync"):
                rollouts.publish(w.policy.export_weights(step, inputs.probe_ids))
                if evaluates or saves or not config.rollout.max_staleness:
                    rollouts.settle()
            rollout_metrics |= {"kl_coef": state.kl.coef} | staleness_metrics(completions, step)
            state.kl.update(rollout_metrics["kl_sum_mean"], len(completions))
            state.complete(step)
            evaluation: dict[str, float] = {}
            if evaluates:
                with timer("evaluate"):
                    evaluation, rows = evaluate(config, inputs, w, state.scores_before)
                tracker.log_samples(step, rows)
            if not config.rollout.max_staleness:
                rollout_metrics["tokens_per_second"] = float(batch.lengths.sum()) / timer.seconds["generate"]
            sources = {name: float(part.mean()) for name, part in scores.parts.items()}
            metrics = in_groups(rollout=rollout_metrics, policy=policy_metrics, critic=critic_metrics or {},
                                source=sources, sync=sync_metrics(rollouts.reports), eval=evaluation,
                                time=timer.seconds)
            tracker.log(step, metrics)
            tracker.log_samples(step, sample_rows(completions, texts, scores, "rollout")[:SAMPLE_ROWS])
            if saves:
                with timer("checkpoint"):
                    check_reference(state, w)
                    state.save(config, w)
        profiler.end(step, timer)
    return metrics


def begin(
    config: PpoConfig, inputs: PpoInputs, state: LoopState, rollouts: Rollouts, w: Workers, tracker: Tracker
) -> None:
    """Engines with the learner's weights, the reference proved, and the evaluation before training."""
    rollouts.publish(w.policy.export_weights(state.step, inputs.probe_ids))
    rollouts.settle()
    check_reference(state, w)
    if not state.evaluation_before:
        state.evaluation_before, rows = evaluate(config, inputs, w, before={})
        state.scores_before = {row["prompt_id"]: row["score"] for row in rows}
        tracker.log_samples(0, rows)
    state.complete(state.step)


def due(step: int, every: int | None, last: int) -> bool:
    """Every `every` steps, and at the last one."""
    return step == last or (every is not None and step % every == 0)


def in_groups(**groups: dict[str, float]) -> dict[str, float]:
    """The metrics of all groups as `group/name`."""
    return {f"{group}/{name}": value for group, metrics in groups.items() for name, value in metrics.items()}


def sync_metrics(reports: list[SyncReport]) -> dict[str, float]:
    """The slowest engine's seconds, the widest probe gap, the bytes one engine pulled."""
    return {
        "seconds": max(r.seconds for r in reports),
        "probe_gap": max(r.probe_gap for r in reports),
        "bytes": float(max(r.bytes for r in reports)),
    }
