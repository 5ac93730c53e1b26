"""From a run to what the page says about it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from medrl.report.answers import Answers, of_evaluation, of_training
from medrl.report.charts import Chart, bar_chart, line_chart
from medrl.report.evaluation import Result, Rule, results, rules
from medrl.report.read import Run
from medrl.report.scales import short, signed
from medrl.timer import duration

# (title, unit, name of the line → metric)
PPO_CHARTS = (
    ("Reward", "", {"sampled answers": "rollout/score_mean", "held-out answers": "eval/score_mean"}),
    ("KL to the reference", "nats", {"sum over an answer": "rollout/kl_sum_mean"}),
    ("Answer length", "tokens", {"sampled answers": "rollout/length_mean", "held-out answers": "eval/length_mean"}),
    ("Entropy of the next token", "nats", {"policy": "policy/entropy"}),
    ("Policy loss", "", {"policy": "policy/loss"}),
    ("Critic loss", "", {"critic": "critic/value_loss"}),
    ("Clipped tokens", "share", {"above": "policy/clip_fraction_high", "below": "policy/clip_fraction_low"}),
    ("Explained variance of the returns", "", {"critic": "critic/explained_variance"}),
    ("Distinct two-token sequences", "share", {"held-out answers": "eval/distinct_2"}),
    ("Generation speed", "tokens/s", {"rollout": "rollout/tokens_per_second"}),
)
SUPERVISED_CHARTS = (
    ("Loss", "", {"training": "loss", "held-out": "eval_loss"}),
    ("Learning rate", "", {"training": "lr"}),
    ("Gradient norm", "", {"training": "grad_norm"}),
)
NOT_CHARTS = {"step", "steps", "epoch", "tokens", "seconds", "eval_seconds", "wall_time"}
TITLES = {
    "pretrain": "continued pre-training", "sft": "supervised fine-tuning", "reward": "reward model", "dpo": "DPO",
    "ppo": "PPO", "evaluation": "evaluation", "merge": "merged model", "world": "demo data",
    "supervised": "supervised training",
}


@dataclass(frozen=True)
class Figure:
    """A number worth a tile, with what it was before when it has changed."""

    label: str
    value: str
    before: str = ""
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Section:
    """What the page says about one run. What it has nothing to say about is empty."""

    name: str
    kind: str
    title: str
    model: str
    seconds: str
    notice: str = ""  # something is missing
    headline: list[Figure] = field(default_factory=list)  # what the training changed
    facts: list[tuple[str, str]] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    answers: Answers | None = None
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def section(run: Run) -> Section:
    """The section of one run."""
    settings = yaml.safe_load(run.config) or {}
    model = settings.get("model") or run.result.get("model") or ""
    parts = PARTS[run.kind](run, settings)
    return Section(
        name=run.name,
        kind=run.kind,
        title=TITLES.get(run.result.get("stage", run.kind), str(run.result.get("stage", run.kind))),
        model=str(model.get("path", "")) if isinstance(model, dict) else str(model),
        seconds="" if run.seconds is None else duration(run.seconds),
        config=run.config,
        versions=run.versions,
        **parts,
    )


def _ppo(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    before, after = _before(run), _last_evaluation(run)
    start = {"step": 0} | {f"eval/{name}": value for name, value in before.items()}
    rows = [start, *run.steps] if before else run.steps
    notice = ""
    if not run.result:
        wanted = f" of {settings['steps']}" if "steps" in settings else ""
        notice = f"The run broke off or is still going: {len(run.steps)}{wanted} steps so far, no summary.json."
    return {
        "notice": notice,
        "headline": _changes(run, before, after),
        "facts": [("steps", str(run.result.get("steps", len(run.steps)))), *_engines(run)],
        "charts": [*_charts(rows, PPO_CHARTS), *_phases(run.steps)],
        "answers": of_training(run.samples),
    }


def _supervised(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    drawn = {metric for _, _, lines in SUPERVISED_CHARTS for metric in lines.values()}
    others = dict.fromkeys(key for row in run.steps for key in row if key not in drawn | NOT_CHARTS)
    charts = [*SUPERVISED_CHARTS, *((key.replace("_", " "), "", {"held-out": key}) for key in others)]
    notice = "" if run.result else (
        f"The run broke off or is still going: {len(run.steps)} rows of metrics so far, no report.json.")
    return {"notice": notice, "facts": _facts(run.result), "charts": _charts(run.steps, charts)}


def _evaluation(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    result = run.result
    facts = [("baseline", result["baseline"])] if result["baseline"] else []
    facts += [(phase, duration(seconds)) for phase, seconds in result["seconds"].items()]
    return {"facts": facts, "results": results(result["results"]), "rules": rules(result["rules"]),
            "answers": of_evaluation(result["samples"])}


def _other(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    return {"facts": _facts(run.result)}


PARTS: dict[str, Callable[[Run, dict[str, Any]], dict[str, Any]]] = {
    "ppo": _ppo, "supervised": _supervised, "evaluation": _evaluation, "merge": _other, "world": _other,
}


def _before(run: Run) -> dict[str, float]:
    """The evaluation before the first step: what the summary says, else what the stored answers give."""
    if run.result:
        return run.result["evaluation_before"]
    rows = [row for row in run.samples if row["kind"] == "held-out" and row["step"] == 0]
    if not rows:
        return {}
    scores = [row["score"] for row in rows]
    return {"score_mean": statistics.fmean(scores), "score_std": statistics.pstdev(scores),
            "length_mean": statistics.fmean(row["tokens"] for row in rows)}


def _last_evaluation(run: Run) -> dict[str, float]:
    row = next((row for row in reversed(run.steps) if row.get("eval/score_mean") is not None), {})
    return {key.removeprefix("eval/"): value for key, value in row.items() if key.startswith("eval/")}


def _changes(run: Run, before: dict[str, float], after: dict[str, float]) -> list[Figure]:
    figures = []
    if before and after:
        gain, spread = after["score_mean"] - before["score_mean"], before["score_std"]
        note = f"{signed(gain / spread)} standard deviations of the scores before" if spread else ""
        figures.append(Figure("Held-out reward", signed(after["score_mean"]), signed(before["score_mean"]), "", note))
    if "win_rate" in after:
        note = "against the answers before"
        if "win_rate_low" in after:
            note += f"; 95 % interval {short(after['win_rate_low'])} to {short(after['win_rate_high'])}"
        figures.append(Figure("Win rate", short(after["win_rate"]), "", "", note))
    kl = [row["rollout/kl_sum_mean"] for row in run.steps if row.get("rollout/kl_sum_mean") is not None]
    if kl:
        note = f"sum over an answer, last step; mean {short(statistics.fmean(kl))} over {len(kl)} steps"
        figures.append(Figure("KL to the reference", short(kl[-1]), "", "nats", note))
    for label, key, unit, note in (
        ("Answer length", "length_mean", "tokens", "mean of the held-out answers"),
        ("Distinct-2", "distinct_2", "", "distinct share of two-token sequences"),
    ):
        if key in after:
            figures.append(Figure(label, short(after[key]), short(before[key]) if key in before else "", unit, note))
    return figures


def _engines(run: Run) -> list[tuple[str, str]]:
    engines = run.result.get("engines", {})
    return [(f"{role} engine", name.rsplit(".", 1)[-1]) for role, name in engines.items()]


def _facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything a run's result says in one number or word."""
    facts = []
    for key, value in result.items():
        if key in ("stage", "name", "model", "adapter", "seconds"):
            continue
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, int):
            value = f"{value:,}"
        elif isinstance(value, float):
            value = duration(value) if key.endswith("seconds") else short(value)
        if isinstance(value, str):
            facts.append((key.replace("_", " "), value))
    return facts


def _charts(rows: Sequence[dict[str, Any]], wanted: Sequence[tuple[str, str, dict[str, str]]]) -> list[Chart]:
    """The charts that have anything to show."""
    charts = []
    for title, unit, lines in wanted:
        series = {name: [(row["step"], row[key]) for row in rows if key in row] for name, key in lines.items()}
        if chart := line_chart(title, unit, {name: points for name, points in series.items() if points}):
            charts.append(chart)
    return charts


def _phases(rows: Sequence[dict[str, Any]]) -> list[Chart]:
    names = dict.fromkeys(key for row in rows for key in row if key.startswith("time/"))
    parts = {name.removeprefix("time/"): [row.get(name) for row in rows] for name in names}
    chart = bar_chart("Time of each phase", "s", [row["step"] for row in rows], parts) if parts else None
    return [chart] if chart else []
