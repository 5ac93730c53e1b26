"""What users say of answers: consent, retention, and the pairs that come of it."""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrl import cli
from medrl.config.feedback import FeedbackConfig
from medrl.data.check import run_data_check
from medrl.data.datasets import read_pairs
from medrl.errors import DatabaseError, DataError
from medrl.feedback import Feedback, FeedbackStore, preference_pairs, run_export
from medrl.types import PreferencePair
from tests.identifiers import found_in, found_under, planted_identifiers

pytestmark = pytest.mark.heavy

DAY = 86_400
ASK = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "感冒?"})
NOW = time.time()


def feedback(request_id: str = "req-1", rating: Any = "down", **changes: Any) -> Feedback:
    values: dict[str, Any] = {"may_keep": True, "may_train": True, "messages": ASK, "answer": "No idea."} | changes
    return Feedback(request_id, rating, **values)


def row(rating: str, answer: str, better: str = "", messages=ASK) -> dict:
    return {"rating": rating, "answer": answer, "better_answer": better, "comment": "", "messages": list(messages)}


@pytest.fixture
def store(database_url):
    store = FeedbackStore(FeedbackConfig(url=database_url, keep_days=30))
    yield store
    store.close()


def test_what_was_given_for_training_comes_back(store) -> None:
    store.add(feedback("req-1", 2, better_answer="Rest.", comment="\0\ud800 hm"), NOW)
    store.add(feedback("req-2", "up", answer="休息"), NOW)
    store.add(feedback("req-3", "down", may_train=False), NOW)
    store.add(Feedback("req-4", 5, may_keep=False, may_train=False, messages=ASK, answer="x"), NOW)
    first, second = sorted(store.for_training(NOW), key=lambda row: row["rating"])
    assert first == row("2", "No idea.", "Rest.") | {"comment": "\0\ud800 hm"}
    assert second == row("up", "休息")


def test_a_later_feedback_replaces_the_earlier_and_its_consent(store) -> None:
    store.add(feedback(), NOW)
    store.add(feedback(rating="up"), NOW + 1)
    assert [row["rating"] for row in store.for_training(NOW + 1)] == ["up"]
    store.add(feedback(may_train=False, may_keep=False), NOW + 2)
    assert store.for_training(NOW + 2) == []


def test_what_is_too_old_is_deleted_by_the_next_that_comes(store) -> None:
    store.add(feedback("req-1"), NOW)
    store.add(feedback("req-2", "up"), NOW + 29 * DAY)
    assert len(store.for_training(NOW + 30 * DAY - 1)) == 2
    store.add(feedback("req-3", 5), NOW + 30 * DAY + 1)
    assert sorted(row["rating"] for row in store.for_training(NOW)) == ["5", "up"]  # deleted, not just left out


def test_texts_without_consent_and_deleted_texts_are_not_in_the_file(tmp_path, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "sqlalchemy.engine")
    store = FeedbackStore(FeedbackConfig(url=f"sqlite:///{tmp_path}/feedback.db", keep_days=1))
    names = planted_identifiers()
    parts = [", ".join(names[i : i + 10]) for i in range(0, 200, 10)]
    for i, text in enumerate(parts):
        store.add(Feedback(f"req-{i}", "down", may_keep=False, may_train=False, answer=text, comment=text,
                           better_answer=text, messages=[{"role": "user", "content": text}]), NOW)
    assert not found_under(tmp_path)
    for i, text in enumerate(parts):
        store.add(feedback(f"req-{i}", answer=text), NOW)
    assert found_under(tmp_path) == names
    assert len(store.for_training(NOW)) == 20
    store.add(Feedback("req-x", "up", may_keep=False, may_train=False), NOW + 2 * DAY)
    assert not found_under(tmp_path)
    assert not found_in(caplog.text)


@pytest.mark.parametrize("changes", [
    {"request_id": "Zhang Wei 138"}, {"request_id": 3}, {"rating": 6}, {"rating": "Zhang Wei"}, {"rating": True},
    {"rating": 2.0}, {"may_keep": "yes"}, {"may_train": 1}, {"may_keep": False}, {"answer": ["Zhang Wei"]},
    {"comment": None}, {"better_answer": 3}, {"messages": "Zhang Wei"}, {"messages": ["Zhang Wei"]},
])
def test_what_cannot_be_used_is_refused_without_its_value(changes) -> None:
    values: dict[str, Any] = {"request_id": "req-1", "rating": "up", "may_keep": True, "may_train": True}
    with pytest.raises(DataError) as caught:
        Feedback(**values | changes)
    assert "Zhang" not in str(caught.value)
    assert "Zhang" not in repr(feedback(messages=[{"role": "user", "content": "Zhang"}], comment="Zhang"))


def test_a_failing_database_does_not_tell_what_it_was_given(tmp_path) -> None:
    store = FeedbackStore(FeedbackConfig(url=f"sqlite:///{tmp_path}/f.db"))
    store.add(feedback(), NOW)
    with sqlite3.connect(tmp_path / "f.db") as connection:
        connection.execute("CREATE TRIGGER no BEFORE INSERT ON feedback BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(DatabaseError) as caught:
        store.add(feedback("req-2", comment="Zhang Wei"), NOW)
    assert "Zhang" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_better_answer_goes_before_the_one_it_corrects() -> None:
    pairs, left_out = preference_pairs([row("down", "No.", "Rest."), row("3", "No.", "Rest."), row("up", "No.", "No.")])
    assert pairs == [PreferencePair(ASK, "Rest.", "No.")]
    assert not left_out


def test_liked_answers_go_before_disliked_ones_to_the_same_prompt() -> None:
    other = [{"role": "user", "content": "flu?"}]
    pairs, left_out = preference_pairs([
        row("up", "a"), row("5", "b"), row("1", "c"), row("2", "d"), row("3", "e"), row("down", "f", messages=other),
        row("up", "split"), row("down", "split"), row("4", "mostly"), row("up", "mostly"), row("down", "mostly")])
    assert {(pair.chosen, pair.rejected) for pair in pairs} == {
        (a, b) for a in ("a", "b", "mostly") for b in ("c", "d")}
    assert not left_out


def test_pairs_that_contradict_each_other_or_cannot_be_read_are_left_out_and_counted() -> None:
    calls = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [{}]}]
    pairs, left_out = preference_pairs([
        row("down", "a", "b"), row("down", "b", "a"), row("down", "c", "d"), row("down", "", "d"),
        row("down", "e", "f", messages=calls), row("down", "g", "\ud800")])
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("d", "c")]
    assert left_out.pop("another feedback says the opposite") == 2
    assert left_out.total() == 3


MIXED = [row("down", "a", "b"), row("up", "c"), row("down", "a"), row("2", "d", "e"), row("5", "b")]


@given(st.permutations(MIXED))
def test_the_order_of_the_rows_does_not_matter(rows) -> None:
    assert preference_pairs(rows) == preference_pairs(MIXED)


def export(url: str, out: Path) -> None:
    options = cli.parse(["feedback", "export", str(out), f"feedback.url={url}"])
    options.command(options)


def test_the_export_passes_the_check_of_the_data_and_reads_back(store, database_url, tmp_path, capsys) -> None:
    for i, rating in enumerate(["up", "down", "down"]):
        store.add(feedback(f"req-{i}", rating, answer=f"答案 {i}", better_answer="Rest." if i == 2 else ""), NOW)
    store.add(feedback("req-9", "down", answer="private", better_answer="secret", may_train=False), NOW)
    out = tmp_path / "pairs.jsonl"
    export(database_url, out)
    assert capsys.readouterr().out == f"{out}: 3 preference pairs from 3 feedbacks that may be used for training\n"
    run_data_check([str(out)], "pairs", None, 20)
    assert read_pairs(out) == [PreferencePair(ASK, *texts) for texts in (
        ("Rest.", "答案 2"), ("答案 0", "答案 1"), ("答案 0", "答案 2"))]
    assert "private" not in out.read_text() and "secret" not in out.read_text()
    with pytest.raises(DataError, match="exists already"):
        export(database_url, out)


def test_nothing_to_export_writes_no_file(store, database_url, tmp_path) -> None:
    store.add(feedback(rating="up"), NOW)
    with pytest.raises(DataError, match="no feedback makes a preference pair"):
        export(database_url, tmp_path / "pairs.jsonl")
    assert not (tmp_path / "pairs.jsonl").exists()


def test_a_store_that_is_not_there_is_not_made_by_reading(tmp_path) -> None:
    with pytest.raises(DatabaseError, match="no database"):
        run_export(FeedbackConfig(url=f"sqlite:///{tmp_path}/f.db"), str(tmp_path / "pairs.jsonl"))
    assert not [*tmp_path.iterdir()]
