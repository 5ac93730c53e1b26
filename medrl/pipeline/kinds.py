"""The kinds of links: their config, what they run, what they leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrl.config.common import StageConfig
from medrl.config.evaluate import EvaluateConfig
from medrl.config.pipeline import MergeConfig, ReportConfig, WorldConfig
from medrl.config.ppo import PpoConfig
from medrl.config.supervised import DpoConfig, PretrainConfig, RewardConfig, SftConfig
from medrl.demo.world import build_world
from medrl.report.page import FILE, write_report
from medrl.report.read import read_run
from medrl.run_dir import move_aside
from medrl.stages.dpo import run_dpo
from medrl.stages.evaluate import RESULT_FILE, run_evaluate
from medrl.stages.merge import run_merge
from medrl.stages.ppo import run_ppo
from medrl.stages.pretrain import run_pretrain
from medrl.stages.reward import run_reward
from medrl.stages.sft import run_sft
from medrl.workers.evaluate import role_plans
from medrl.workers.placement import plan_roles, total_cpus


@dataclass(frozen=True)
class Output:
    """Something a link leaves. Example: `Output("runs/demo/sft/merged", "a language model")`."""

    path: str
    kind: str  # "a language model", "a reward model", "an adapter", "data", "an evaluation", "a run" or "a page"


@dataclass(frozen=True)
class Kind:
    """One kind of link. `run(config, resume)` does it; `outputs(config)` names what it will leave, before it runs."""

    config: type[StageConfig]
    run: Callable[[Any, bool], Any]
    outputs: Callable[[Any], dict[str, Output]]
    cpus: Callable[[Any], float] = lambda config: 0.0  # of a Ray cluster; 0: it needs none


LANGUAGE, REWARD, ADAPTER, DATA, RUN, PAGE = (
    "a language model", "a reward model", "an adapter", "data", "a run", "a page")


def _trained(kind: str) -> Callable[[Any], dict[str, Output]]:
    """What a supervised stage leaves: the model, and the adapter inside it."""

    def outputs(config: Any) -> dict[str, Output]:
        if config.lora is None:
            return {"model": Output(f"{config.run_dir}/model", kind)}
        return {
            "model": Output(f"{config.run_dir}/merged", kind),
            "adapter": Output(f"{config.run_dir}/adapter", ADAPTER),
        }

    return outputs


def _policy(config: PpoConfig) -> dict[str, Output]:
    if config.lora is None:
        return {"model": Output(f"{config.run_dir}/model", LANGUAGE)}
    return {"adapter": Output(f"{config.run_dir}/adapter", ADAPTER)}


def _merge(config: MergeConfig, _resume: bool) -> None:
    move_aside(config.run_dir)
    run_merge(config.adapter, config.base, config.run_dir, config.dtype)


def _world(config: WorldConfig, _resume: bool) -> None:
    build_world(config.run_dir, config.seed)


def _report(config: ReportConfig, _resume: bool) -> None:
    runs = [read_run(Path(run)) for run in config.runs]
    write_report(runs, Path(config.output_dir).resolve().name, Path(config.run_dir, FILE))


def _workers(config: Any) -> float:
    return config.scaling.workers * config.scaling.cpus_per_worker


KINDS: dict[str, Kind] = {
    "world": Kind(
        WorldConfig, _world,
        lambda c: {"data": Output(c.run_dir, DATA), "model": Output(f"{c.run_dir}/base", LANGUAGE)},
    ),
    "pretrain": Kind(PretrainConfig, run_pretrain, _trained(LANGUAGE), _workers),
    "sft": Kind(SftConfig, run_sft, _trained(LANGUAGE), _workers),
    "reward": Kind(RewardConfig, run_reward, _trained(REWARD), _workers),
    "dpo": Kind(DpoConfig, run_dpo, _trained(LANGUAGE), _workers),
    "ppo": Kind(PpoConfig, run_ppo, _policy, lambda c: total_cpus(plan_roles(c))),
    "evaluate": Kind(
        EvaluateConfig, lambda c, _: run_evaluate(c),
        lambda c: {"results": Output(f"{c.run_dir}/{RESULT_FILE}", "an evaluation")},
        lambda c: total_cpus(role_plans(c)),
    ),
    "merge": Kind(MergeConfig, _merge, lambda c: {"model": Output(c.run_dir, LANGUAGE)}),
    "report": Kind(ReportConfig, _report, lambda c: {"page": Output(f"{c.run_dir}/{FILE}", PAGE)}),
}
