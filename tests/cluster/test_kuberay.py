"""The manifests of cluster/kuberay against the resources that KubeRay knows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests.cluster.kuberay import check

FILES = sorted((Path(__file__).parents[2] / "cluster/kuberay").glob("*.yaml"))


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_every_document_has_the_fields_of_its_kind_and_no_other(file: Path) -> None:
    for document in documents(file):
        check(document)


def cluster() -> dict[str, Any]:
    return copy.deepcopy(documents(next(file for file in FILES if file.name == "raycluster.yaml"))[0])


def head(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["headGroupSpec"]["template"]["spec"]


MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a misspelt field": (lambda spec: spec.update(rayversion="2.60.0"), "rayversion"),
    "a version that is a number": (lambda spec: spec.update(rayVersion=2.6), "rayVersion"),
    "no authentication": (lambda spec: spec["authOptions"].update(mode="disabled"), "authOptions.mode"),
    "the first autoscaler": (lambda spec: spec["autoscalerOptions"].update(version="v1"), "autoscalerOptions.version"),
    "too many replicas": (lambda spec: spec["workerGroupSpecs"][0].update(replicas=9), "not within 1 … 8"),
    "a start parameter that is a number": (
        lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "rayStartParams"),
    "root": (lambda spec: head(spec)["securityContext"].update(runAsUser=0), "runAsUser"),
    "the latest image": (lambda spec: head(spec)["containers"][0].update(image="medrl:latest"), "image"),
    "a quantity that is none": (
        lambda spec: head(spec)["containers"][0]["resources"]["limits"].update(memory="16 GB"), "limits.memory"),
    "a volume that nobody mounts": (
        lambda spec: head(spec)["volumes"].append({"name": "more", "emptyDir": {"sizeLimit": "1Gi"}}), "more"),
    "a grace period that is too short": (
        lambda spec: spec["workerGroupSpecs"][0]["template"]["spec"].update(terminationGracePeriodSeconds=60),
        "kills what `ray stop` gives 100 s"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found(name: str) -> None:
    change, said = MISTAKES[name]
    document = cluster()
    change(document["spec"])
    with pytest.raises(ValidationError, match=said):
        check(document)
