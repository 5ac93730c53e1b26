"""Where the config of a service comes from, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from medrl.config.base import build_config
from medrl.config.serving import ServeConfig, ServeRewardConfig, service_config
from medrl.errors import ConfigError

NO_FLAGS = {"host": None, "port": None, "api_key_env": None, "insecure": None}


def test_a_model_directory_with_settings_and_flags() -> None:
    flags = NO_FLAGS | {"port": 9000, "api_key_env": "NO"}
    config = service_config(ServeRewardConfig, "runs/rm", ["replicas=2", "port=1"], flags)
    assert config == ServeRewardConfig(model="runs/rm", replicas=2, port=9000, api_key_env="NO")


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("model: runs/rm\nhost: localhost\nmax_items: 8\n")
    config = service_config(ServeRewardConfig, str(path), [], NO_FLAGS)
    assert config == ServeRewardConfig(model="runs/rm", host="localhost", max_items=8)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "gpu-box"])
def test_other_machines_need_a_key_or_an_explicit_word(host: str) -> None:
    with pytest.raises(ConfigError, match="can be reached from other machines.*--api-key-env"):
        service_config(ServeRewardConfig, "rm", [], NO_FLAGS | {"host": host})
    for flags in ({"api_key_env": "KEY"}, {"insecure": True}):
        assert service_config(ServeRewardConfig, "rm", [], NO_FLAGS | flags | {"host": host}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.9", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert service_config(ServeRewardConfig, "rm", [], NO_FLAGS | {"host": host}).api_key_env is None


def test_a_model_or_a_registry_and_not_both() -> None:
    for overrides, mistake in (
        ([], "set either model"), (["model=m", "registry.root=here"], "set either model"),
        (["model=m", "candidate=true"], "candidate needs a registry"),
    ):
        with pytest.raises(ConfigError, match=mistake):
            build_config(ServeConfig, {}, source="test", overrides=overrides)
    assert build_config(ServeConfig, {"registry": {"root": "here"}}, source="test", overrides=[]).model is None
