"""The stages on data from outside the project, a few steps each: `python -m tests.real DATA`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medrl.config.base import load_config
from medrl.config.common import DataChecks, RayConfig, StageConfig
from medrl.config.pipeline import PipelineConfig
from medrl.config.ppo import PpoConfig
from medrl.config.supervised import DpoConfig, PretrainConfig, RewardConfig, SftConfig
from medrl.errors import MedrlError

CONFIGS = Path("configs/demo")
BASE = Path("runs/demo/pretrain/model")  # what `make demo` pre-trains
KINDS = {"en_pretrain.txt": "texts", "zh_sft.jsonl": "conversations", "en_sft.jsonl": "conversations",
         "en_preference.jsonl": "pairs", "zh_prompts.jsonl": "prompts"}
SUPERVISED: dict[str, tuple[str, type[StageConfig], str]] = {  # run → (stage, config, data)
    "pretrain": ("pretrain", PretrainConfig, "en_pretrain.txt"),
    "sft-zh": ("sft", SftConfig, "zh_sft.jsonl"),
    "sft-en": ("sft", SftConfig, "en_sft.jsonl"),
    "reward": ("reward", RewardConfig, "en_preference.jsonl"),
    "dpo": ("dpo", DpoConfig, "en_preference.jsonl"),
}
PPO = {"ppo-gae": ["algorithm.advantage=gae"],
       "ppo-grpo": ["algorithm.advantage=grpo", "data.samples_per_prompt=4", "data.batch_size=4"]}


@dataclass(frozen=True)
class Run:
    """One row of the table: a stage and its config."""

    name: str
    stage: str
    data: str
    config: Any


def make_runs(folder: Path, steps: int) -> Iterator[Run]:
    """All runs, in order: PPO starts from the Chinese SFT model and is scored by the reward model."""
    for name, (stage, config, data) in SUPERVISED.items():
        parts = folder / "data" / data
        settings = [f"model.path={BASE}", f"data.train={parts}/train.jsonl", f"data.eval={parts}/heldout.jsonl",
                    f"training.max_steps={steps}", "training.batch_size=8", "training.micro_batch_size=8"]
        settings += [] if stage == "pretrain" else ["data.too_long=right"]
        settings += ["data.calibration=null"] if stage == "reward" else []
        yield _run(name, stage, data, config, folder, settings)
    data, parts = "zh_prompts.jsonl", folder / "data/zh_prompts.jsonl"
    for name, changes in PPO.items():
        settings = [
            f"model.path={folder}/sft-zh/merged", f"data.prompts={parts}/train.jsonl",
            f"data.eval_prompts={parts}/heldout.jsonl", f"steps={steps}", "data.batch_size=16",
            f"reward.sources=[{{name: real, model: {folder}/reward/merged}}]", "evaluation.max_prompts=16", *changes]
        yield _run(name, "ppo", data, PpoConfig, folder, settings)


def _run(name: str, stage: str, data: str, config: type[StageConfig], folder: Path, settings: list[str]) -> Run:
    settings = [f"name={name}", f"output_dir={folder}", *settings]
    return Run(name, stage, data, load_config(config, CONFIGS / f"{stage}.yaml", settings))


def prepare(data: Path, folder: Path) -> None:
    """Part every file into train and held out; make the demo's base model if it is not there."""
    from medrl.data.convert import run_split
    from medrl.pipeline.run import run_pipeline

    for name, kind in KINDS.items():
        if not (folder / "data" / name).exists():
            checks = DataChecks(on_bad_row="skip")
            run_split([str(data / name)], str(folder / "data" / name), kind, 0.1, 0, checks)
    if not BASE.exists():
        demo = load_config(PipelineConfig, CONFIGS / "pipeline.yaml", [])
        first = {name: demo.links[name] for name in ("world", "pretrain")}
        run_pipeline(demo.model_copy(update={"links": first}), CONFIGS)


def held_out(report: dict[str, Any]) -> str:
    """The figure that counts, of a supervised stage's report or of PPO's summary."""
    if "accuracy" in report:
        low, high = report["accuracy_interval"]
        return f"accuracy {report['accuracy']:.3f} [{low:.3f}, {high:.3f}]"
    if "eval_loss" in report:
        return f"loss {report['eval_loss']:.3f}"
    before, after = report["evaluation_before"]["score_mean"], report["evaluation_after"]["score_mean"]
    return f"reward {before:+.3f} → {after:+.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.real", description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help=f"folder with {', '.join(KINDS)}")
    parser.add_argument("--steps", type=int, default=4, metavar="N", help="of each stage (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/real"), metavar="DIR", help="(default: %(default)s)")
    options = parser.parse_args()

    try:
        prepare(options.data, options.folder)
    except MedrlError as error:
        print(f"error: {error}")
        return error.exit_code
    return run_all(list(make_runs(options.folder, options.steps)))


def run_all(runs: list[Run]) -> int:
    """Run each, whatever became of the one before, print the table; 1 if one failed, else 0."""
    from medrl.stages import dpo, ppo, pretrain, reward, sft
    from medrl.workers.cluster import connect

    stages = {"pretrain": pretrain.run_pretrain, "sft": sft.run_sft, "reward": reward.run_reward, "dpo": dpo.run_dpo,
              "ppo": ppo.run_ppo}
    table = Table("run", "data", "held out", "seconds", "outcome")
    failed = 0
    with connect(RayConfig(), 8.0):
        for run in runs:
            started, figure, outcome = time.monotonic(), "", "done"
            try:
                figure = held_out(stages[run.stage](run.config))
            except MedrlError as error:
                failed, outcome = failed + 1, f"FAILED: {error.message}"
            table.add_row(run.name, run.data, figure, f"{time.monotonic() - started:.0f}", outcome)
    Console(width=140).print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
