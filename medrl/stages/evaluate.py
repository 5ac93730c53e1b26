"""`medrl evaluate`: a model measured with medical metrics, beside a baseline if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from medrl.config.common import ModelConfig
from medrl.config.evaluate import EvaluateConfig
from medrl.evaluation.bootstrap import Bootstrap
from medrl.evaluation.measured import Answer
from medrl.evaluation.metrics import METRICS
from medrl.evaluation.safety import rule_counts
from medrl.lora.identity import model_hash
from medrl.models.loading import check_model_dir
from medrl.rollout.base import check_context
from medrl.run_dir import create_run_dir, write_json
from medrl.stages.evaluate_rows import LoadedSet, Work, encode_work, load_sets, measured
from medrl.stages.evaluate_tables import metric_table, rule_table
from medrl.timer import Timer
from medrl.types import ScoreRequest
from medrl.workers.cluster import connect
from medrl.workers.evaluate import EvaluationPool, launch_evaluators, launch_scorers, role_plans
from medrl.workers.placement import total_cpus
from medrl.workers.reward import check_sources

RESULT_FILE = "evaluation.json"
Measured = dict[str, list[Any]]  # set → what was measured, row by row


def run_evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure, print the tables, and write <run_dir>/evaluation.json, whose content is returned.

    Raises DataError, ModelError or ConfigError before any worker starts; WorkerError or RewardError from the workers.
    """
    sets = load_sets(config)
    models = {"model": config}
    if config.baseline:
        path = {"path": config.baseline}
        models["baseline"] = config.model_copy(update={"model": config.model.model_copy(update=path)})
    for one in models.values():
        check_model_dir(one.model.path)
        check_context(one.model, config.max_length)
    calibrations = check_sources(config.reward, calibrate=True) if config.reward else {}
    work = {name: encode_work(one, sets) for name, one in models.items()}
    hashes = {f"{name}_sha256": model_hash(one.model.path) for name, one in models.items()}
    run_dir, timer = create_run_dir(config), Timer()
    with connect(config.ray, total_cpus(role_plans(config))):
        with launch_evaluators(config) as pool:
            found = {name: measure(pool, one.model, work[name], sets, timer) for name, one in models.items()}
        if config.reward:
            with timer("score"), launch_scorers(config, calibrations) as pool:
                found = {name: _scored(pool, rows) for name, rows in found.items()}
    with timer("metrics"):
        content = results(config, sets, found["model"], found.get("baseline")) | hashes
    content["seconds"] = {phase: round(seconds, 2) for phase, seconds in timer.seconds.items()}
    write_json(run_dir / RESULT_FILE, content)
    show(Console(), content, str(run_dir / RESULT_FILE))
    return content


def measure(
    pool: EvaluationPool, model: ModelConfig, work: Work, sets: Sequence[LoadedSet], timer: Timer
) -> Measured:
    """Have `model` do its work; the pool holds nothing of it afterwards."""
    logprobs: dict[str, list[list[float]]] = {}
    completions: dict[str, list] = {}
    with timer("log-probs"):
        flat = pool.logprobs(model, [s for rows in work.sequences.values() for row in rows for s in row]).tolist()
    with timer("generate"):
        answers = pool.generate(model, work.stop_ids, [r for requests in work.requests.values() for r in requests])
    values, given = iter(flat), iter(answers)
    for name, rows in work.sequences.items():
        logprobs[name] = [[next(values) for _ in row] for row in rows]
    for name, requests in work.requests.items():
        completions[name] = [next(given) for _ in requests]
    return {
        s.config.name: measured(work, s, logprobs.get(s.config.name, []), completions.get(s.config.name, []))
        for s in sets
    }


def _scored(pool: Any, found: Measured) -> Measured:
    """With the calibrated reward of every answer."""
    answers = [a for rows in found.values() for a in rows if isinstance(a, Answer)]
    if not answers:
        return found
    scores = iter(pool.score([ScoreRequest(a.messages, a.text, a.ended) for a in answers]).result().total.tolist())
    return {
        name: [replace(a, score=next(scores)) if isinstance(a, Answer) else a for a in rows]
        for name, rows in found.items()
    }


def results(
    config: EvaluateConfig, sets: Sequence[LoadedSet], model: Measured, baseline: Measured | None
) -> dict[str, Any]:
    """The content of evaluation.json but for the seconds and the models' hashes."""
    bootstrap = Bootstrap(config.bootstrap_samples, config.seed)
    content: dict[str, Any] = {
        "model": config.model.path, "baseline": config.baseline, "seed": config.seed,
        "results": [], "rules": [], "samples": [],
    }
    for chosen in sets:
        name, task = chosen.config.name, chosen.config.task
        mine, other = model[name], baseline[name] if baseline else None
        if other and isinstance(mine[0], Answer):
            mine = [replace(a, baseline_score=b.score) for a, b in zip(mine, other, strict=True)]
        for metric in chosen.metrics:
            before = METRICS[metric](other, bootstrap).value if other and metric != "win_rate" else None
            row = {"set": name, "metric": metric, **asdict(METRICS[metric](mine, bootstrap)), "baseline": before}
            content["results"].append(row)
        if task == "safety":
            kept = rule_counts(other) if other else {}
            content["rules"] += [
                {"set": name, "rule": rule, "passed": passed, "total": total,
                 "baseline_passed": kept[rule][0] if other else None}
                for rule, (passed, total) in rule_counts(mine).items()
            ]
        if isinstance(mine[0], Answer):
            content["samples"] += _samples(name, mine[: config.kept_answers], other)
    return content


def _samples(name: str, answers: Sequence[Answer], baseline: Sequence[Answer] | None) -> list[dict[str, Any]]:
    return [
        {
            "set": name, "id": a.id, "messages": list(a.messages),
            "reference": a.references[0] if a.references else None,
            "answer": a.text, "baseline_answer": baseline[i].text if baseline else None,
            "score": a.score, "baseline_score": a.baseline_score,
        }
        for i, a in enumerate(answers)
    ]


def show(console: Console, content: dict[str, Any], path: str) -> None:
    """The tables, and where everything is."""
    console.print(metric_table(content["results"], content["baseline"] is not None))
    if content["rules"]:
        console.print(rule_table(content["rules"], content["baseline"] is not None))
    console.print(f"everything, with sample answers: {path}")
