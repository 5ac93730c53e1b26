"""Nothing of what a patient wrote, or was answered, gets into the audit, its exports, its logs or its errors."""

from __future__ import annotations

import logging

import pytest

from medrl.audit.commands import run_export, run_show, run_verify
from medrl.audit.record import SAMPLING, sealed
from medrl.audit.writer import open_writer
from medrl.errors import MedrlError
from tests.identifiers import found_in, found_under, planted_identifiers
from tests.unit.audit.answers import answer, make_chain
from tests.unit.audit.test_writer import locked, wait_until


def test_200_planted_identifiers_are_nowhere(config, key, tmp_path, caplog, capsys) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "sqlalchemy.engine")
    make_chain(config, key, 0).close()
    errors = []
    writer = open_writer(config)
    names = planted_identifiers()
    for i, name in enumerate(names):
        sampling = {"temperature": 0.5, name: 1, "user": name, "logit_bias": {name: 1}, "stop": [name]}
        prompt = name if i % 2 else f"I am {name}, 我叫{name}"
        texts = {"prompt": prompt, "answer": f"{name}: rest", "sampling": sampling}
        writer.record(answer(i, **texts))
        try:  # a label that a client may have sent
            writer.record(answer(i, **texts | {"request_id": f"为 {name}"}))
        except MedrlError as error:
            errors.append(str(error))
        if i == 100:
            with locked(config):  # from here on through the spill
                writer.record(answer(i, **texts))
                wait_until(lambda: writer.counts().spilled)
                assert not found_under(tmp_path)
    writer.close(30)
    for form in ("jsonl", "csv"):
        run_export(config, None, None, form)
    run_verify(config, None)
    run_show(config, "req-7")
    printed = capsys.readouterr()
    assert printed.out.count("req-7") > 2 and len(errors) == 200
    assert not found_in(printed.out + printed.err + caplog.text + "\n".join(errors))
    assert not found_under(tmp_path)
    assert (tmp_path / "store/audit.db").stat().st_size > 100_000


@pytest.mark.parametrize("name", sorted(SAMPLING))
def test_no_setting_of_a_request_carries_text(key, name) -> None:
    for value in ("Alma Ashgrove", ["Alma Ashgrove"], {"Alma Ashgrove": "Alma Ashgrove"}):
        assert "Alma" not in sealed(answer(1, sampling={name: value}), key).sampling


def test_the_search_finds_what_is_there(tmp_path) -> None:
    names = planted_identifiers()
    (tmp_path / "a.json").write_text("\n".join([names[0], ascii(names[7])]))
    assert found_under(tmp_path) == [names[0], names[7]]
