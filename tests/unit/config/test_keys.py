"""Where the keys of a service come from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from medrl import cli
from medrl.config.keys import KeyConfig, KeysConfig, load_keys, make_key
from medrl.errors import ConfigError

HASHES = [hashlib.sha256(bytes([n])).hexdigest() for n in range(3)]


def write(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_three_places_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", "from-the-environment")
    file = write(tmp_path / "keys.json", json.dumps([{"id": "b", "sha256": HASHES[1], "scopes": ["admin"]}]))
    config = KeysConfig(api_key_env="SERVICE_KEY", keys=[KeyConfig(id="a", sha256=HASHES[0])], key_file=file)
    quick = hashlib.sha256(b"from-the-environment").hexdigest()
    assert [(key.id, key.sha256, key.scopes) for key in load_keys(config)] == [
        ("a", HASHES[0], ["infer"]), ("default", quick, ["infer", "admin"]), ("b", HASHES[1], ["admin"])]
    assert config.guarded and not KeysConfig().guarded


def test_a_new_key_is_256_bits_and_its_entry_goes_into_a_key_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = ""
    for name in ("clinic", "ops"):
        with pytest.raises(SystemExit) as done:
            cli.main(["key", name, "--scopes", "infer", "admin"])
        assert done.value.code == 0
        said = capsys.readouterr()
        entries += said.out
        key = said.err.split()[-1]
        assert len(key) > 43 and hashlib.sha256(key.encode()).hexdigest() in said.out and key not in said.out
    keys = load_keys(KeysConfig(key_file=write(tmp_path / "keys.yaml", entries)))
    assert [(key.id, key.scopes) for key in keys] == [("clinic", ["infer", "admin"]), ("ops", ["infer", "admin"])]


def test_a_name_that_would_break_a_log_line_is_refused() -> None:
    for name in ("two words", "a\nb", "", "-x", "x" * 65):
        with pytest.raises(ConfigError, match="id: string should match"):
            make_key(name, ["infer"])


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o666])
def test_a_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    file = write(tmp_path / "keys.yaml", yaml.safe_dump([{"id": "a", "sha256": HASHES[0]}]), mode)
    with pytest.raises(ConfigError, match=f"open to other users(.|\n)*mode {mode:o}(.|\n)*chmod 600"):
        load_keys(KeysConfig(key_file=file))


@pytest.mark.parametrize(("text", "said"), [
    ("[]", "keys: list should have at least 1"),
    ("a: 1", "keys: input should be a valid list"),
    ("[", "not valid YAML"),
    ("- {id: a, sha256: short}", "keys.0.sha256: string should match"),
    (f"- {{id: a, sha256: {HASHES[0]}, scopes: [root]}}", "keys.0.scopes.0"),
    (f"- {{id: a, sha256: {HASHES[0]}}}\n- {{id: a, sha256: {HASHES[1]}}}", "id a is there twice"),
    (f"- {{id: a, sha256: {HASHES[0]}}}\n- {{id: b, sha256: {HASHES[0]}}}", "sha256 .* is there twice"),
])
def test_mistakes_in_a_key_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_keys(KeysConfig(key_file=write(tmp_path / "keys.yaml", text)))


def test_a_missing_file_and_a_variable_that_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_keys(KeysConfig(key_file=str(tmp_path / "none.yaml")))
    monkeypatch.setenv("SERVICE_KEY", "")
    with pytest.raises(ConfigError, match="SERVICE_KEY"):
        load_keys(KeysConfig(api_key_env="SERVICE_KEY"))


def test_a_name_twice_in_the_config() -> None:
    with pytest.raises(ValidationError, match="id a is there twice"):
        KeysConfig(keys=[KeyConfig(id="a", sha256=hash_) for hash_ in HASHES[:2]])
