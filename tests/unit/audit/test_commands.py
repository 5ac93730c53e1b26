"""`medrl audit …` as it is called."""

from __future__ import annotations

import csv
import io
import json
import sqlite3

import pytest

from medrl import cli
from medrl.errors import AuditError, ConfigError
from tests.unit.audit.answers import SECRET, answer, make_chain


@pytest.fixture
def audit(config, key, tmp_path):
    """audit("verify", …): a command on a chain of five, with its settings from a file."""
    make_chain(config, key, 5).close()
    path = tmp_path / "serve.yaml"
    path.write_text(f"model: anything\naudit:\n  url: {config.url}\n  spill_dir: {config.spill_dir}\n")

    def run(command: str, *arguments: str) -> None:
        options = cli.parse(["audit", command, "--config", str(path), *arguments])
        options.command(options)

    return run


def execute(config, statement: str) -> None:
    with sqlite3.connect(config.url.removeprefix("sqlite:///")) as connection:
        connection.execute(statement)


def test_verify_prints_the_head_which_a_later_verify_takes(audit, capsys) -> None:
    audit("verify")
    said = capsys.readouterr().out
    assert said.startswith("5 records, all as they were written; head 5:")
    audit("verify", "--head", said.split()[-1])
    with pytest.raises(AuditError, match="truncated before record 6: 2 records are missing"):
        audit("verify", "--head", "7:" + "a" * 64)
    with pytest.raises(ConfigError, match="no head"):
        audit("verify", "--head", "seven")


def test_verify_exits_with_3_and_names_the_record(audit, config, capsys, monkeypatch) -> None:
    execute(config, "UPDATE audit_records SET model_version = '8' WHERE seq = 2")
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        cli.main(["audit", "verify", f"audit.url={config.url}"])
    assert caught.value.code == 3
    assert capsys.readouterr().err.startswith("error: record 2 was changed: its hash is not that of what it holds\n")


def test_verify_tells_of_records_that_are_not_in_the_chain_yet(audit, tmp_path, capsys) -> None:
    (tmp_path / "spill").mkdir()
    (tmp_path / "spill/1.damaged").write_text("x")
    audit("verify")
    assert f"note: {tmp_path}/spill/1.damaged holds records" in capsys.readouterr().out


def test_show_prints_the_records_of_a_request(audit, capsys, key) -> None:
    audit("show", "req-3")
    record = json.loads(capsys.readouterr().out)
    assert record["time"] == "2026-09-21T14:13:23.250000+00:00"
    assert (record["seq"], record["completion_tokens"], record["sampling"]["temperature"]) == (4, 20, 0.7)
    assert record["prompt_hmac"] == key.digest("prompt", answer(3).prompt)
    with pytest.raises(AuditError, match="no record"):
        audit("show", "req-99")


def test_a_changed_record_is_not_shown(audit, config, capsys) -> None:
    execute(config, "UPDATE audit_records SET sampling = 'no json' WHERE seq = 4")
    for command in (["show", "req-3"], ["export"]):
        with pytest.raises(AuditError, match="record 4 was changed"):
            audit(*command)


@pytest.mark.parametrize(("limits", "expected"), [
    ([], [1, 2, 3, 4, 5]),
    (["--since", "2026-09-21T14:13:22.25"], [3, 4, 5]),
    (["--until", "2026-09-21T22:13:22.25+08:00"], [1, 2]),
    (["--since", "2026-09-21T14:13:22", "--until", "2026-09-22"], [3, 4, 5]),
])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_export_has_every_column_of_the_records_between(audit, capsys, limits, expected, form) -> None:
    audit("export", "--format", form, *limits)
    text = capsys.readouterr().out
    if form == "jsonl":
        records = [json.loads(line) for line in text.splitlines()]
    else:
        records = [*csv.DictReader(io.StringIO(text))]
        assert all(json.loads(record["sampling"])["max_tokens"] == 64 for record in records)
    assert [int(record["seq"]) for record in records] == expected
    assert all(len(record) == 17 for record in records)
    assert SECRET not in text


def test_a_time_that_is_none_is_refused(audit) -> None:
    with pytest.raises(ConfigError, match="no time"):
        audit("export", "--since", "yesterday")
