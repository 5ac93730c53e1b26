"""A service that follows its registry: versions change under clients, fail to load, and lose replicas on the way."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from medrl.audit.key import load_key
from medrl.audit.store import AuditStore
from medrl.audit.verify import rows
from medrl.config.audit import AuditConfig
from medrl.registry.store import Registry
from tests.integration.swap_clients import Clients
from tests.services import running_service
from tests.versions import greedy_answer, promote, save_version, tiny_registry

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]
VARIABLE, KEY = "MEDRL_TEST_SWAP_KEY", "tiny-key"
SWAPS = 20


@dataclass
class Service:
    """A running service on two replicas, and its registry with three versions."""

    url: str
    process: psutil.Process
    registry: Registry
    answers: dict[str, list[int]]
    checksums: dict[str, str]
    audit: AuditConfig

    def ask(self, method: str, path: str) -> dict[str, Any]:
        answer = httpx.request(method, self.url + path, headers={"Authorization": f"Bearer {KEY}"}, timeout=300)
        return answer.raise_for_status().json()

    def state(self) -> dict[str, Any]:
        return self.ask("GET", "/admin/version")

    def swap(self) -> dict[str, Any]:
        """What the last swap was, once the service is where the registry is."""
        return self.ask("POST", "/admin/swap")["last_swap"]

    def clients(self, count: int = 8) -> Clients:
        return Clients(self.url, KEY, self.answers, count)

    def audited(self, requests: Mapping[str, str], seconds: float = 30) -> dict[str, set[tuple[str, str]]]:
        """Version and checksum in the records of each of the `requests`, once they are all written."""
        deadline = time.monotonic() + seconds
        found: dict[str, set[tuple[str, str]]] = {}
        while found.keys() != requests.keys() and time.monotonic() < deadline:
            time.sleep(0.5)
            with AuditStore(self.audit, load_key(self.audit)).read() as connection:
                for row in rows(connection):
                    if row["request_id"] in requests:
                        found.setdefault(row["request_id"], set()).add((row["model_version"], row["weight_checksum"]))
        return found

    def processes(self, name: str) -> list[psutil.Process]:
        return [child for child in self.process.children(recursive=True) if name in " ".join(child.cmdline())]

    def wait(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 300) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while not condition(state := self.state()):
            assert time.monotonic() < deadline, state
            time.sleep(0.1)
        return state


def all_serve(number: str, replicas: int = 2) -> Callable[[dict[str, Any]], bool]:
    def condition(state: dict[str, Any]) -> bool:
        here = [replica["serving"] and replica["version"]["version"] for replica in state["replicas"].values()]
        return here == [number] * replicas
    return condition


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("swap")
    registry = tiny_registry(folder, 3)
    versions = {str(version.number): version for version in registry.versions()}
    answers = {number: greedy_answer(version.path) for number, version in versions.items()}
    assert len(set(map(tuple, answers.values()))) == 3
    key_file = folder / "audit.key"
    key_file.write_text("0" * 64)
    audit = AuditConfig(url=f"sqlite:///{folder}/audit/audit.db", spill_dir=f"{folder}/spill", key_file=str(key_file))
    config = folder / "serve.yaml"
    config.write_text(json.dumps({
        "registry": {"root": str(registry.root)}, "replicas": 2, "cpus_per_replica": 0.5, "dtype": "float32",
        "kv_cache_gib": 0.25, "max_model_len": 128, "swap": {"poll_seconds": 0.5}, "ray": {"num_cpus": 8},
        "audit": audit.model_dump(),
    }))
    command = ["serve", str(config), f"--api-key-env={VARIABLE}"]
    with running_service(command, os.environ | {VARIABLE: KEY}) as running:
        checksums = {number: version.checksum for number, version in versions.items()}
        yield Service(running.url, psutil.Process(running.process.pid), registry, answers, checksums, audit)


def test_many_swaps_and_a_rollback_under_clients_lose_and_mix_nothing(service: Service) -> None:
    seconds = []
    with service.clients() as clients:
        for i in range(SWAPS):
            promote(service.registry, (i + 1) % 3 + 1)
            last = service.swap()
            assert last["why"] is None and last["to"] == str((i + 1) % 3 + 1)
            seconds.append(last["seconds"])
        before = service.state()["serving"]["version"]
        service.registry.rollback("a test")
        last = service.swap()
        assert (last["from"], last["outcome"]) == (before, "served")
    print(f"{SWAPS + 1} swaps of {min(seconds)} to {max(seconds)} s; answers {dict(clients.versions)}")
    assert clients.failures == []
    expected = {request: {(number, service.checksums[number])} for request, number in clients.answered.items()}
    assert service.audited(clients.answered) == expected
    assert len(clients.versions) == 3 and all_serve(last["to"])(service.state())


def test_a_promotion_is_followed_without_being_asked(service: Service) -> None:
    number = next(n for n in service.answers if n != service.state()["serving"]["version"])
    promote(service.registry, int(number))
    service.wait(all_serve(number), 30)


def test_a_version_that_does_not_load_leaves_the_old_one_everywhere(service: Service, tmp_path: Path) -> None:
    old = service.state()["serving"]["version"]
    broken = service.registry.register(with_nans(save_version(tmp_path / "broken", 7)), copy=False)
    wider = service.registry.register(save_version(tmp_path / "wider", 8, intermediate_size=128), copy=False)
    with service.clients() as clients:
        for version, why in ((broken, "finite log-probs"), (wider, "config.json")):
            promote(service.registry, version.number)
            last = service.swap()
            assert last["outcome"] == "refused" and why in last["why"]
            assert all_serve(old)(service.state())
        for _ in range(2):
            service.registry.rollback("does not load")
    assert clients.failures == [] and set(clients.versions) == {old}


def test_a_replica_that_is_killed_in_a_swap_leaves_all_on_one_version(service: Service) -> None:
    old = service.swap() and service.state()["serving"]["version"]
    number = next(n for n in service.answers if n != old)
    replica = service.processes("ServeReplica:medrl:ChatService")[0]
    engine = next(child for child in replica.children(recursive=True) if "EngineCore" in " ".join(child.cmdline()))
    with service.clients(4) as clients:
        engine.send_signal(signal.SIGSTOP)  # it will never load
        promote(service.registry, int(number))
        service.wait(lambda state: state["phase"] == "loading", 30)
        replica.kill()
        engine.kill()
        began = time.monotonic()
        service.wait(all_serve(number, 1), 60)
        print(f"served again {time.monotonic() - began:.1f} s after the death")
        service.wait(all_serve(number), 600)  # the replacement, too
    assert not [failure for failure in clients.failures if "not version" in failure]
    assert service.state()["last_swap"]["outcome"] == "served"


def test_a_conductor_that_is_killed_finds_out_what_is_served(service: Service) -> None:
    before = service.state()["serving"]
    with service.clients(2) as clients:
        service.processes("ServeReplica:medrl:Conductor")[0].kill()
        service.wait(lambda state: state["last_swap"] is None and state["phase"] == "serving", 120)
    assert clients.failures == []
    assert service.state()["serving"] == before
    promote(service.registry, next(int(n) for n in service.answers if n != before["version"]))
    assert service.swap()["outcome"] == "served"


def with_nans(model: Path) -> Path:
    """Weights that load and then give no numbers."""
    import torch
    from safetensors.torch import load_file, save_file

    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], float("nan"))
    save_file(tensors, file, {"format": "pt"})
    return model
