"""The Dockerfiles of cluster/: pinned, built from what exists, small, and not root."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = {"cpu": {"uv", "torch-cpu", "cpu"}, "gpu": {"uv", "gpu"}}


@pytest.fixture(params=LOCKS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def steps(kind: str) -> list[tuple[str, str]]:
    """(instruction, its arguments) in order; lines that go on are one."""
    text = re.sub(r"^#.*\n", "", (ROOT / f"cluster/Dockerfile.{kind}").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line]


def arguments(steps: list[tuple[str, str]], instruction: str) -> list[str]:
    return [text for name, text in steps if name == instruction]


def commands(steps: list[tuple[str, str]]) -> list[list[str]]:
    """Every command of every RUN, as words."""
    return [shlex.split(command) for text in arguments(steps, "RUN") for command in text.split("&&")]


def test_there_is_one_image_for_each_lock() -> None:
    assert {path.suffix[1:] for path in (ROOT / "cluster").glob("Dockerfile.*")} == set(LOCKS)


def test_only_known_instructions_in_an_order_that_works(steps: list[tuple[str, str]]) -> None:
    names = [name for name, _ in steps]
    assert set(names) == {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "CMD"}  # no ADD, which fetches and unpacks
    assert names[0] == "FROM" and names.count("FROM") == 1 and names[-1] == "CMD" and names.count("CMD") == 1
    assert all(path.startswith("/") for path in arguments(steps, "WORKDIR"))
    assert json.loads(arguments(steps, "CMD")[0])[0] == "medrl"  # the form without a shell: signals arrive


def test_the_base_is_the_python_of_the_locks_on_a_named_release(steps: list[tuple[str, str]]) -> None:
    assert re.fullmatch(r"python:3\.11-slim-[a-z]+", arguments(steps, "FROM")[0])


def test_the_image_does_not_run_as_root(steps: list[tuple[str, str]]) -> None:
    assert arguments(steps, "USER") == ["1000"]
    after = [name for name, _ in steps[[name for name, _ in steps].index("USER"):]]
    assert not {"RUN", "COPY"} & set(after)
    assert any(c[0] == "useradd" and "1000" in c for c in commands(steps))


def test_what_is_copied_exists_and_is_in_the_build_context(steps: list[tuple[str, str]]) -> None:
    context = (ROOT / ".dockerignore").read_text().splitlines()
    assert context[0] == "*"
    copied = [source for text in arguments(steps, "COPY") for source in text.split()[:-1]]
    assert {"medrl", "serve", "requirements"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists() and f"!{source}" in context


def test_exactly_the_locks_are_installed_with_hashes_and_without_a_cache(
    kind: str, steps: list[tuple[str, str]]
) -> None:
    installs = [c for c in commands(steps) if "install" in c and {"pip", "uv"} & {c[0]}]
    locks = {c[c.index("--requirement") + 1]: c for c in installs if "--requirement" in c}
    assert set(locks) == {f"requirements/{name}.txt" for name in LOCKS[kind]}
    for lock, command in locks.items():
        assert (ROOT / lock).is_file()
        from_pytorch = "https://download.pytorch.org/whl/cpu" in command  # its index gives wheels other hashes
        assert from_pytorch == (lock == "requirements/torch-cpu.txt")
        assert "--require-hashes" in command or from_pytorch
    assert all({"--no-cache", "--no-cache-dir"} & set(c) for c in installs)
    assert [c[-1] for c in installs if "--requirement" not in c] == ["."]


def test_debian_packages_come_without_extras_and_leave_no_lists(steps: list[tuple[str, str]]) -> None:
    (text,) = [text for text in arguments(steps, "RUN") if "apt-get" in text]
    update, install, remove = [command.strip() for command in text.split("&&")]
    assert update == "apt-get update" and remove == "rm -rf /var/lib/apt/lists/*"
    assert install.startswith("apt-get install --yes --no-install-recommends ")


def test_no_secret_is_part_of_the_image_and_tokens_are_asked_for(steps: list[tuple[str, str]]) -> None:
    variables = dict(word.split("=", 1) for text in arguments(steps, "ENV") for word in shlex.split(text))
    assert variables["RAY_AUTH_MODE"] == "token"
    assert not [name for name in variables if re.search("TOKEN|KEY|SECRET|PASSWORD", name)]
