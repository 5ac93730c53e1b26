"""The run folder: what it records, and that it never loses an earlier run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medrl.config.base import parse_yaml
from medrl.config.common import StageConfig
from medrl.errors import ConfigError
from medrl.run_dir import create_run_dir, library_versions


def test_the_resolved_config_and_versions_are_written(tmp_path: Path) -> None:
    run = create_run_dir(StageConfig(name="a", output_dir=str(tmp_path), seed=3))
    assert parse_yaml((run / "config.yaml").read_text())["seed"] == 3
    assert json.loads((run / "versions.json").read_text()) == library_versions()
    assert {"python", "torch", "ray"} <= library_versions().keys()


def test_an_earlier_run_is_moved_aside_unless_it_is_resumed(tmp_path: Path) -> None:
    config = StageConfig(name="a", output_dir=str(tmp_path))
    run = create_run_dir(config)
    (run / "precious").write_text("1")
    create_run_dir(config, keep=True)
    assert (run / "precious").exists()
    create_run_dir(config)
    create_run_dir(config)
    assert not (run / "precious").exists() and (tmp_path / "a.1/precious").exists() and (tmp_path / "a.2").is_dir()


def test_a_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        create_run_dir(StageConfig(name="a", output_dir=str(tmp_path / "file")))
