"""What travels with a job."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medrl.config.base import load_config
from medrl.config.pipeline import PipelineConfig
from medrl.config.stages import CONFIGS
from medrl.errors import ConfigError
from medrl.jobs import package
from medrl.jobs.package import Request, write_package

CONFIG_FOLDER = Path(__file__).parents[3] / "configs/demo"


def request(stage: str = "ppo", **settings) -> Request:
    file = CONFIG_FOLDER / f"{stage}.yaml"
    return Request(stage, load_config(CONFIGS[stage], file), file, **settings)


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "dpo", "ppo", "evaluate"])
def test_the_config_means_on_the_cluster_what_it_means_here(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "package"
    monkeypatch.chdir(tmp_path)
    write_package(request(stage), folder)
    there, here = load_config(CONFIGS[stage], folder / "config.yaml"), request(stage).config
    expected = here.model_copy(update={"output_dir": str(tmp_path / here.output_dir)})
    assert there == expected


def test_a_package_holds_code_and_config_and_runs_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/old/weights.safetensors", "data/rows.jsonl", ".git/HEAD", ".venv/bin/python"):
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text("not for the cluster")
    folder = tmp_path / "package"
    write_package(request(), folder)
    assert {name.split("/")[0] for name in files(folder)} == {"medrl", "config.yaml"}
    assert not [name for name in files(folder) if Path(name).suffix not in (".py", ".yaml", ".jinja")]
    code = "import medrl.cli, medrl; print(medrl.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(folder / "medrl/__init__.py"), done.stderr


def test_reward_functions_of_the_working_directory_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rewards_here.py").write_text("def brevity(messages, answers): ...")
    Path("more/deep").mkdir(parents=True)
    Path("more/deep/tone.py").write_text("")
    Path("more/weights.bin").write_text("")
    functions = ("rewards_here:brevity", "more.deep.tone:x", "json:x")
    sources = [{"name": str(i), "function": function} for i, function in enumerate(functions)]
    file = CONFIG_FOLDER / "ppo.yaml"
    config = load_config(CONFIGS["ppo"], file, [f"reward.sources={sources}", "critic.init=policy"])
    write_package(Request("ppo", config, file), tmp_path / "package")
    others = {name for name in files(tmp_path / "package") if not name.startswith("medrl/")}
    assert others == {"config.yaml", "rewards_here.py", "more/deep/tone.py"}


def test_a_pipeline_brings_the_files_of_its_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_package(request("pipeline"), tmp_path / "package")
    config = load_config(PipelineConfig, tmp_path / "package/config.yaml")
    assert config.output_dir == str(tmp_path / "runs/demo")
    for name, link in config.links.items():
        if link.config:
            there = yaml.safe_load((tmp_path / "package" / link.config).read_text())
            here = yaml.safe_load((CONFIG_FOLDER / f"{link.stage}.yaml").read_text())
            assert there.keys() == here.keys(), name


def test_a_package_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "LIMIT_BYTES", 100_000)
    with pytest.raises(ConfigError, match="largest: medrl/"):
        write_package(request(), tmp_path / "package")


def test_jobs_are_named_after_the_config_and_the_time() -> None:
    assert re.fullmatch(r"ppo-\d{8}-\d{6}", request().job_id)
    assert re.fullmatch(r"pipeline-\d{8}-\d{6}", request("pipeline").job_id)
    assert request(name="second try: 感冒/x").job_id == "second-try-x"


def test_only_variables_that_were_named_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINIC_KEY", "k")
    monkeypatch.setenv("OTHER_KEY", "o")
    assert request().environment().keys() == {"RAY_JOB_STOP_WAIT_TIME_S"}
    assert request(variables=("CLINIC_KEY",)).environment()["CLINIC_KEY"] == "k"
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        request(variables=("CLINIC_KEY", "NO_SUCH_KEY")).environment()
