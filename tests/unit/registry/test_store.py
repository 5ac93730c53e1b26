"""The registry on MLflow's real store, with SQLite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from safetensors.numpy import load_file, save_file

from medrl.config.base import build_config
from medrl.config.registry import RegistryConfig
from medrl.errors import ConfigError, GateError, RegistryError
from medrl.registry.store import Registry

pytestmark = pytest.mark.heavy
ROOT = Path(__file__).parents[3]
LIMITS = {"metrics": {"heldout/reward": {"min": 0.5, "min_low": 0.0, "max_drop": 0.2}},
          "rules": {"safety/*": {"min": 0.9}}}


def gated(config: RegistryConfig, **gate: Any) -> Registry:
    return Registry(build_config(RegistryConfig, config.model_dump() | {"gate": gate}))


def retrain(run: Path) -> None:
    """Other weights in the merged model."""
    file = run / "merged/model.safetensors"
    save_file({name: tensor * 1.001 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})


def register(registry: Registry, run: Path, evaluate, count: int = 1, **values: float | None) -> None:
    for _ in range(count):
        retrain(run)
        registry.register(run / "merged", evaluate(run, **values))


def champion(registry: Registry) -> int:
    return registry.resolve("champion").number


def mlflow_client(config: RegistryConfig) -> MlflowClient:
    uri = f"sqlite:///{config.root}/registry.db"
    return MlflowClient(uri, uri)


def mlflow_alias(config: RegistryConfig, name: str) -> int:
    return int(mlflow_client(config).get_model_version_by_alias(config.model, name).version)


def test_versions_are_numbered_and_the_newest_is_the_candidate(config: RegistryConfig, run: Path, evaluate) -> None:
    registry = Registry(config)
    register(registry, run, evaluate, 2)
    first, second = registry.versions()
    assert (first.number, first.aliases, second.number, second.aliases) == (1, (), 2, ("candidate",))
    assert first.checksum != second.checksum
    assert registry.resolve("candidate") == registry.resolve("2") == second
    assert mlflow_alias(config, "candidate") == 2
    assert Registry(config).versions() == [first, second]  # another process sees the same


def test_training_on_does_not_change_a_version(config: RegistryConfig, run: Path, evaluate) -> None:
    registry = Registry(config)
    register(registry, run, evaluate)
    retrain(run)
    assert registry.resolve("1").path.is_relative_to(config.root)
    left = registry.register(run / "merged", copy=False)
    assert left.path == run / "merged"
    assert registry.resolve("2") == left
    retrain(run)
    with pytest.raises(RegistryError, match="the weights in"):
        registry.resolve("2")
    registry.resolve("1")


def test_a_registration_that_fails_leaves_no_version(config: RegistryConfig, run: Path, evaluate, monkeypatch) -> None:
    registry = Registry(config)
    register(registry, run, evaluate)
    retrain(run)
    monkeypatch.setattr("medrl.registry.files.shutil.copyfile", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        registry.register(run / "merged")
    assert [version.number for version in registry.versions()] == [1]
    assert len(list(Path(config.root, "models").iterdir())) == 1


def test_the_gate_lists_every_failure_and_promotes_nothing(config: RegistryConfig, run: Path, evaluate) -> None:
    registry = gated(config, **LIMITS)
    register(registry, run, evaluate, reward=0.1, low=-0.5, passed=8)
    with pytest.raises(GateError) as caught:
        registry.promote("candidate")
    assert str(caught.value).splitlines()[:4] == [
        "version 1 does not pass the gate", "  heldout/reward: at least 0.5, got 0.1",
        "  heldout/reward: lower end at least 0, got -0.5", "  safety/escalates: at least 0.9, got 0.8"]
    assert registry.history() == []
    with pytest.raises(RegistryError, match="no version champion"):
        registry.resolve("champion")


def test_the_champion_is_what_the_next_one_is_measured_against(config: RegistryConfig, run: Path, evaluate) -> None:
    registry = gated(config, **LIMITS)
    for reward in (1.0, 0.7, 0.9):
        register(registry, run, evaluate, reward=reward)
    registry.promote("1")
    with pytest.raises(GateError, match="at most 0.2 below the champion's 1, got 0.7"):
        registry.promote("2")
    registry.promote("3")
    registry.promote("2")  # 0.7 is no worse than 0.9 by more than 0.2
    assert champion(registry) == mlflow_alias(config, "champion") == 2


def test_without_evaluation_or_merge_proof_only_force_promotes(config: RegistryConfig, trained: Path) -> None:
    registry = Registry(config)
    registry.register(trained / "base")
    with pytest.raises(GateError, match="merge check: .*got none\n  evaluation: required, got none"):
        registry.promote("1")
    for reason in (None, " "):
        with pytest.raises(ConfigError, match="needs a reason"):
            registry.promote("1", force=True, reason=reason)
    assert registry.history() == []
    event = registry.promote("1", force=True, reason="a pilot")
    assert registry.history() == [event]
    assert (event.reason, event.before, event.version) == ("a pilot", None, 1)
    assert event.overruled == ("merge check: a merge.json beside the model, got none",
                               "evaluation: required, got none")
    assert champion(registry) == 1


def test_rollbacks_walk_back_and_are_recorded(config: RegistryConfig, run: Path, evaluate) -> None:
    registry = Registry(config)
    register(registry, run, evaluate, 3)
    for version in "123":
        registry.promote(version)
    assert [registry.rollback("worse").version, registry.rollback().version] == [2, 1]
    assert champion(registry) == mlflow_alias(config, "champion") == 1
    with pytest.raises(RegistryError, match="no earlier champion"):
        registry.rollback()
    with pytest.raises(RegistryError, match="is the champion already"):
        registry.promote("1")
    history = registry.history()
    assert [(event.action, event.before, event.version) for event in history] == [
        ("promote", None, 1), ("promote", 1, 2), ("promote", 2, 3), ("rollback", 3, 2), ("rollback", 2, 1)]
    assert history[3].reason == "worse" and all(event.by and event.at for event in history)


def test_a_tampered_version_is_neither_promoted_nor_rolled_back_to(config: RegistryConfig, run: Path, evaluate) -> None:
    registry = Registry(config)
    register(registry, run, evaluate, 3)
    registry.promote("1")
    registry.promote("2")
    for number in "13":
        file = registry.resolve(number).path / "model.safetensors"
        file.chmod(0o644)
        file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    with pytest.raises(RegistryError, match="the weights in"):
        registry.promote("3", force=True, reason="hurry")
    with pytest.raises(RegistryError, match="the weights in"):
        registry.rollback()
    assert champion(registry) == 2 and len(registry.history()) == 2


def test_an_alias_moved_by_hand_or_left_behind_by_a_crash_decides_nothing(
    config: RegistryConfig, run: Path, evaluate, monkeypatch
) -> None:
    registry = Registry(config)
    register(registry, run, evaluate, 3)
    registry.promote("1")
    mlflow_client(config).set_registered_model_alias("medrl", "champion", "3")
    assert champion(registry) == 1
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            registry.promote("2")
    assert champion(registry) == 2 and mlflow_alias(config, "champion") == 3
    registry.promote("1")
    assert champion(registry) == mlflow_alias(config, "champion") == 1


PROMOTE = """
import sys
from medrl.config.registry import RegistryConfig
from medrl.registry.store import Registry
registry = Registry(RegistryConfig(root=sys.argv[1]))
for version in 3 * sys.argv[2:]:
    registry.promote(version)
assert not {"torch", "ray", "transformers"} & sys.modules.keys()
"""


def test_two_processes_that_promote_take_turns(config: RegistryConfig, run: Path, evaluate) -> None:
    registry = Registry(config)
    register(registry, run, evaluate, 4)
    commands = [[sys.executable, "-c", PROMOTE, config.root, *pair] for pair in (("1", "2"), ("3", "4"))]
    processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    history = registry.history()  # numbered 1, 2, … without gaps, or this fails
    assert [event.version for event in history if event.version < 3] == 3 * [1, 2]
    assert [event.version for event in history if event.version > 2] == 3 * [3, 4]
    assert [event.before for event in history] == [None, *(event.version for event in history[:-1])]
    assert champion(registry) == mlflow_alias(config, "champion") == history[-1].version


def test_a_command_that_finds_the_registry_busy_says_so_in_time(config: RegistryConfig) -> None:
    from medrl.registry.lock import locked

    registry = Registry(config.model_copy(update={"lock_timeout": 0.2}))
    with locked(Path(config.root, "promote.lock"), 1.0), pytest.raises(RegistryError, match="another command"):
        registry.rollback()
    with pytest.raises(RegistryError, match="no earlier champion"):
        registry.rollback()


@pytest.mark.parametrize("values", [{"uri": "nosuch://host"}, {"root": "/dev/null/registry"}])
def test_a_store_that_cannot_be_opened_is_an_error_of_ours(tmp_path: Path, values) -> None:
    with pytest.raises(RegistryError, match="the registry's store failed"):
        Registry(RegistryConfig(**{"root": str(tmp_path)} | values), create=True)


def test_only_registering_makes_a_registry(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="there is no registry in"):
        Registry(RegistryConfig(root=str(tmp_path / "elsewhere")))
    assert list(tmp_path.iterdir()) == []


def test_without_mlflow_the_remedy_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"pip install 'medrl\[mlflow\]'"):
        Registry(RegistryConfig(root=str(tmp_path)))


def test_the_commands(config: RegistryConfig, run: Path, evaluate, tmp_path: Path, monkeypatch, capsys) -> None:
    from medrl.registry.commands import run_promote, run_register, run_rollback, run_versions

    monkeypatch.chdir(tmp_path)
    Path("registry.yaml").write_text(json.dumps(config.model_dump() | {"gate": LIMITS}))
    evaluate(run, passed=5)
    run_register(None, str(run), None, None, copy=True)
    assert "no evaluation" not in capsys.readouterr().out
    run_promote(None, "candidate", force=True, reason="the first one")
    assert "overruled: safety/escalates: at least 0.9, got 0.5\n" in capsys.readouterr().out
    (run / "evaluation.json").unlink()
    run_register("registry.yaml", str(run), None, None, copy=True)
    assert "only --force can promote it" in capsys.readouterr().out
    run_promote(None, "2", force=True, reason="the second one")
    run_rollback(None, None)
    capsys.readouterr()
    run_versions(None, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert [version["aliases"] for version in document["versions"]] == [["champion"], ["candidate"]]
    assert [event["reason"] for event in document["history"]] == ["the first one", "the second one", None]
    run_versions(None, as_json=False)
    shown = capsys.readouterr().out
    assert document["versions"][0]["checksum"][:12] in shown
    assert "champion" in shown and "heldout/reward" in shown and "rules 5/10" in shown
