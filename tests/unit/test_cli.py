"""The command line: what it accepts, what it answers, and what it does not import."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medrl import cli
from tests.unit.report.conftest import ppo_run

ROOT = Path(__file__).parents[2]
COMMANDS = [
    "pretrain", "sft", "reward", "dpo", "ppo", "evaluate", "pipeline", "merge", "check", "inspect", "report",
    "serve", "serve-reward", "key", "data", "register", "versions", "promote", "rollback", "audit", "feedback",
    "demo", "config-docs", "submit", "jobs", "logs", "stop",
]
HEAVY = ["torch", "ray", "transformers", "vllm", "deepspeed", "peft", "trl", "numpy", "mlflow"]


def medrl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medrl", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def imported_by(*arguments: str) -> set[str]:
    """Top-level modules in a process that ran `medrl …` to its end."""
    code = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print('\\n' + json.dumps(sorted({name.split('.')[0] for name in sys.modules}))))\n"
        f"from medrl.cli import main\nmain({list(arguments)!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_names_every_command() -> None:
    done = medrl("--help")
    assert done.returncode == 0
    assert all(f"\n    {name}" in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: medrl {command}" in capsys.readouterr().out


def test_help_imports_nothing_heavy_not_even_pydantic() -> None:
    assert not imported_by("--help") & {*HEAVY, "pydantic", "yaml", "rich"}


def test_a_config_is_checked_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "ppo.yaml"
    path.write_text("name: x\nstepz: 3\n", encoding="utf-8")
    modules = imported_by("ppo", str(path))
    assert "pydantic" in modules
    assert not modules & set(HEAVY)


def test_a_report_needs_nothing_heavy(tmp_path: Path) -> None:
    folder = ppo_run(tmp_path / "ppo")
    modules = imported_by("report", str(folder))
    assert (folder / "report.html").is_file() and "jinja2" in modules and not modules & set(HEAVY)


@pytest.mark.parametrize("arguments", [
    ["ppo", "c.yaml", "--resume", "steps=3", "seed=1"],
    ["ppo", "--resume", "c.yaml", "steps=3", "seed=1"],
    ["ppo", "c.yaml", "steps=3", "--resume", "seed=1"],
    ["ppo", "c.yaml", "steps=3", "seed=1", "--resume"],
])
def test_overrides_and_options_in_any_order(arguments: list[str]) -> None:
    options = cli.parse(arguments)
    assert (options.config, options.overrides, options.resume) == ("c.yaml", ["steps=3", "seed=1"], True)


@pytest.mark.parametrize("command", ["check", "convert", "stats", "split"])
def test_each_data_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse(["data", command, "--help"])
    assert caught.value.code == 0
    assert f"usage: medrl data {command}" in capsys.readouterr().out


def test_data_is_checked_without_the_heavy_libraries(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "hi"}\n')
    assert not imported_by("data", "check", str(path)) & {*HEAVY, "datasets", "pyarrow"} - {"numpy"}


@pytest.mark.parametrize("command", ["verify", "show", "export"])
def test_each_audit_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse(["audit", command, "--help"])
    assert caught.value.code == 0
    assert f"usage: medrl audit {command}" in capsys.readouterr().out


def test_an_audit_is_verified_without_the_heavy_libraries() -> None:
    modules = imported_by("audit", "verify", "audit.url=sqlite:///nowhere/audit.db", "audit.key_env=PATH")
    assert "sqlalchemy" in modules
    assert not modules & set(HEAVY)


def test_a_bad_row_exits_2_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "hi"}\n{"prompt": ""}\n')
    done = medrl("data", "check", str(path))
    assert done.returncode == 2
    assert done.stdout == f"{path}:2: `prompt` is empty\n{path}: 1 plain prompts, 1 bad rows\n"
    assert done.stderr.startswith("error: 1 bad rows\n")


@pytest.mark.parametrize(("override", "said"), [
    ("sets=[{name: exam, task: quiz, path: x}]", "sets.0.task: input should be 'text', 'choice'"),
    ("sets=[{name: exam, task: choice, path: missing.jsonl}]", "no data file at missing.jsonl"),
    ("modle.path=x", "modle: unknown key; did you mean 'model'?"),
])
def test_evaluate_says_what_is_wrong_before_any_worker_starts(override: str, said: str) -> None:
    done = medrl("evaluate", "configs/demo/evaluate.yaml", override)
    assert done.returncode == 2 and said in done.stderr
    assert "Traceback" not in done.stderr


def test_merge_options() -> None:
    options = cli.parse(["merge", "adapter", "--base", "b", "--out", "o", "--dtype", "bfloat16"])
    assert (options.adapter, options.base, options.out, options.dtype) == ("adapter", "b", "o", "bfloat16")
    assert cli.parse(["merge", "adapter", "--out", "o"]).dtype == "float32"


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "dpo", "ppo"])
def test_every_training_stage_can_be_resumed(stage: str) -> None:
    assert cli.parse([stage, "c.yaml", "--resume"]).resume and not cli.parse([stage, "c.yaml"]).resume


@pytest.mark.parametrize(("arguments", "steps"), [
    ([], []), (["--profile"], [2, 3]), (["--profile", "steps=9"], [2, 3]), (["--profile-steps", "7"], [7]),
    (["--profile-steps", "3-5", "steps=9"], [3, 4, 5]),
])
def test_steps_of_ppo_to_profile(arguments: list[str], steps: list[int]) -> None:
    options = cli.parse(["ppo", "c.yaml", *arguments])
    assert list(options.profile) == steps
    assert options.overrides == [word for word in arguments if word == "steps=9"]


@pytest.mark.parametrize("arguments", [
    ["ppo", "c.yaml", "--profile-steps", "5-3"], ["ppo", "c.yaml", "--profile-steps", "two"],
    ["sft", "c.yaml", "--profile"], [], ["train"], ["ppo"], ["ppo", "c.yaml", "--resum3"], ["evaluate"],
    ["evaluate", "c.yaml", "--resume"], ["check", "c.yaml", "--resume"], ["merge", "a"],
    ["demo", "extra"], ["data"], ["data", "check"], ["data", "convert", "a.csv"], ["data", "split", "a.csv"],
    ["data", "stats", "a.csv", "--as", "rows"],
    ["register"], ["promote"], ["rollback", "1"], ["versions", "a.b=1"],
    ["merge", "a", "--out", "o", "--dtype", "float16"], ["demo", "--seed", "one"],
])
def test_a_wrong_command_line_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse(arguments)
    assert caught.value.code == 2
    assert "usage: medrl" in capsys.readouterr().err


def test_an_error_goes_to_stderr_with_its_remedy_and_its_exit_code() -> None:
    done = medrl("ppo", "configs/demo/ppo.yaml", "algoritm.gamma=1", "--resume")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: configs/demo/ppo.yaml: 1 problem\n  algoritm: unknown key; did you mean 'algorithm'?\n")


def test_the_error_s_own_exit_code_counts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from medrl import errors

    def fail(_options: object) -> None:
        raise errors.TrainingError("loss is not finite", remedy="lower the learning rate")

    monkeypatch.setattr(cli, "_config_docs", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        cli.main(["config-docs"])
    assert caught.value.code == 3
    assert capsys.readouterr().err == "error: loss is not finite\n  remedy: lower the learning rate\n"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_in_order_with_its_exit_code(signum: int, code: int) -> None:
    program = (
        "import time\nfrom medrl import cli\n"
        "def work(_options):\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('freed', flush=True)\n"
        "cli._config_docs = work\n"
        "cli.main(['config-docs'])\n"
    )
    # A shell lets its background jobs ignore SIGINT, and what they start inherits that.
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(signum)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == "freed\n"
    assert "Traceback" not in err


def test_config_docs_prints_the_reference() -> None:
    from medrl.config.docs import config_reference

    assert medrl("config-docs").stdout == config_reference()
