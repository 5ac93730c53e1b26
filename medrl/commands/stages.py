"""The stages, alone and as a chain."""

from __future__ import annotations

import argparse
from pathlib import Path

from medrl.commands.parsers import Command, Commands


def add_stages(commands: Commands) -> None:
    def add_training(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        stage = commands.add_stage(name, command, text)
        stage.add_argument("--resume", action="store_true", help="continue from the newest complete checkpoint")
        return stage

    add_training("pretrain", _pretrain, "continue pre-training on plain text")
    add_training("sft", _sft, "fine-tune on conversations")
    add_training("reward", _reward, "train a reward model on preference pairs")
    add_training("dpo", _dpo, "train a policy on preference pairs, without reward model or rollouts")
    ppo = add_training("ppo", _ppo, "train a policy with PPO against reward models")
    ppo.add_argument("--profile", action="store_const", const=range(2, 4), default=(),
                     help="record who did what in steps 2 and 3, and the operators of step 3, to <run>/profile")
    ppo.add_argument("--profile-steps", dest="profile", type=steps, metavar="FIRST[-LAST]",
                     help="the same of other steps (operators: of the last)")
    add = commands.add_stage
    add("evaluate", _evaluate, "measure a model, beside a baseline if one is given")
    add("pipeline", _pipeline, "run several stages as a chain; what is done and unchanged is not done again")
    add("check", _check, "check a PPO config: data, tokenizers, LoRA targets, memory, placement, one tiny step")


def steps(text: str) -> range:
    """`3-5` or `3`. Raises ValueError, which argparse reports as "invalid steps value"."""
    first, _, last = text.partition("-")
    if not (found := range(int(first), int(last or first) + 1)):
        raise ValueError(text)
    return found


def _pretrain(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.supervised import PretrainConfig

    config = load_config(PretrainConfig, options.config, options.overrides)
    from medrl.stages.pretrain import run_pretrain

    run_pretrain(config, options.resume)


def _sft(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.supervised import SftConfig

    config = load_config(SftConfig, options.config, options.overrides)
    from medrl.stages.sft import run_sft

    run_sft(config, options.resume)


def _reward(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.supervised import RewardConfig

    config = load_config(RewardConfig, options.config, options.overrides)
    from medrl.stages.reward import run_reward

    run_reward(config, options.resume)


def _dpo(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.supervised import DpoConfig

    config = load_config(DpoConfig, options.config, options.overrides)
    from medrl.stages.dpo import run_dpo

    run_dpo(config, options.resume)


def _ppo(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.ppo import PpoConfig

    config = load_config(PpoConfig, options.config, options.overrides)
    from medrl.stages.ppo import run_ppo

    run_ppo(config, options.resume, options.profile)


def _evaluate(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.evaluate import EvaluateConfig

    config = load_config(EvaluateConfig, options.config, options.overrides)
    from medrl.stages.evaluate import run_evaluate

    run_evaluate(config)


def _pipeline(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.pipeline import PipelineConfig

    config = load_config(PipelineConfig, options.config, options.overrides)
    from medrl.pipeline.run import run_pipeline

    run_pipeline(config, Path(options.config).parent)


def _check(options: argparse.Namespace) -> None:
    from medrl.config.base import load_config
    from medrl.config.ppo import PpoConfig

    config = load_config(PpoConfig, options.config, options.overrides)
    from medrl.check import run_check

    run_check(config)
