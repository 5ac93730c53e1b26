"""What travels to the cluster with a job: medrl's own code and the resolved config, nothing else."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import medrl
from medrl.config.base import StrictModel, parse_yaml
from medrl.config.paths import absolute_paths, ends, replace_texts
from medrl.errors import ConfigError

CODE = (".py", ".yaml", ".jinja")  # by suffix; nothing else of a Python package travels
CONFIG_FILE = "config.yaml"
LIMIT_BYTES = 20 * 2**20  # Ray keeps the package in the head node's memory
STOP_SECONDS = 600  # from SIGTERM to SIGKILL when a job is stopped: time for a checkpoint


@dataclass(frozen=True)
class Request:
    """What the user asks for. `file` is the config's own, `variables` are names of environment variables."""

    stage: str
    config: StrictModel
    file: Path
    name: str | None = None
    resume: bool = False
    retries: int = 0
    variables: tuple[str, ...] = ()

    @property
    def job_id(self) -> str:
        """Letters, digits, _ and - only, as it becomes part of file names."""
        name = getattr(self.config, "name", self.file.stem)
        return re.sub(r"[^\w-]+", "-", self.name or f"{name}-{time.strftime('%Y%m%d-%H%M%S')}", flags=re.ASCII)

    @property
    def entrypoint(self) -> str:
        """The command that runs in the package's folder on the cluster."""
        python = ".".join(map(str, sys.version_info[:2]))
        words = ["python", "-m", "medrl.jobs.run", "--python", python, "--retries", str(self.retries)]
        words += [self.stage, CONFIG_FILE] + ["--resume"] * self.resume
        return " ".join(words)

    def environment(self) -> dict[str, str]:
        """What the job finds in its environment. ConfigError when a variable is not set here."""
        if missing := [name for name in self.variables if name not in os.environ]:
            raise ConfigError("--env names variables that are not set here", got=", ".join(missing))
        passed = {name: os.environ[name] for name in self.variables}
        return passed | {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}


def write_package(request: Request, folder: Path) -> None:
    """Fill `folder` with the code and the config, its paths absolute. ConfigError when that is too much."""
    values = absolute_paths(request.config.model_dump(mode="json"))
    if "ray" in values:
        values["ray"]["address"] = None  # the job's own cluster
    files = {CONFIG_FILE: values}
    for name, link in values.get("links", {}).items():
        if link["config"]:
            files[f"{name}.yaml"] = _link_values(request.file.parent / link["config"])
            link["config"] = f"{name}.yaml"
    _copy_code(Path(medrl.__file__).parent, folder / "medrl")
    for module in _reward_modules(list(files.values())):
        _copy_code(module, folder / module.name)
    for name, content in files.items():
        (folder / name).write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    _check_size(folder)


def _link_values(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"no file at {file}", remedy="give its path as seen from the pipeline's")
    return absolute_paths(parse_yaml(file.read_text(encoding="utf-8")))


def _reward_modules(configs: list[dict[str, Any]]) -> list[Path]:
    """Files and packages of reward functions that lie in the working directory."""
    names: set[str] = set()

    def collect(key: str, text: str) -> str:
        if ends(key, ("sources.function",)):
            names.add(re.split(r"[.:]", text)[0])
        return text

    replace_texts(configs, collect)
    return [path for name in sorted(names) for path in (Path(name), Path(f"{name}.py")) if path.exists()]


def _copy_code(source: Path, target: Path) -> None:
    """Copy a module, or what is code in a package."""
    if source.is_file():
        shutil.copyfile(source, target)
        return
    for file in sorted(source.rglob("*")):
        if file.suffix in CODE and file.is_file():
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def _check_size(folder: Path) -> None:
    sizes = {file.relative_to(folder): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    if (total := sum(sizes.values())) > LIMIT_BYTES:
        largest = sorted(sizes, key=lambda file: -sizes[file])[:3]
        raise ConfigError(
            "too much to send with the job", limit=f"{LIMIT_BYTES / 2**20:.0f} MiB of code and config",
            got=f"{total / 2**20:.1f} MiB; largest: {', '.join(f'{f} {sizes[f] / 2**20:.1f} MiB' for f in largest)}",
            remedy="move what is not code out of the packages of your reward functions")
