"""What a model has to read and answer for each row, and what metrics see of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medrl.config.base import build_config
from medrl.config.evaluate import EvaluateConfig
from medrl.errors import DataError
from medrl.evaluation.measured import Answer, Choice, Passage
from medrl.stages.evaluate_rows import encode_work, load_sets, measured
from medrl.types import Completion
from tests.tiny import save_tokenizer

CHOICE = {"question": "Which?", "options": ["rest", "see a doctor"], "answer": "B"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer; sets are written beside it."""
    folder = tmp_path_factory.mktemp("rows")
    save_tokenizer(folder / "model")
    return folder


def one_set(folder: Path, task: str, rows: list[dict], **values):
    """(config, work, the set) of a single set `a`."""
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = {"name": "a", "task": task, "path": str(path)} | values.pop("of_set", {})
    config = build_config(EvaluateConfig, {
        "name": "run", "model": {"path": str(folder / "model")}, "sets": [chosen], "sampling": {"max_tokens": 4},
        "max_length": 120} | values)
    (loaded,) = load_sets(config)
    return config, encode_work(config, [loaded]), loaded


def completion(work, index: int, text: str) -> Completion:
    ids = (*work.tokenizer.encode(text), work.tokenizer.eos_token_id)
    return Completion(work.requests["a"][index].prompt, 0, ids, (0.0,) * len(ids), "stop", 0)


def test_a_long_passage_is_read_in_pieces_whose_first_tokens_are_given(folder: Path) -> None:
    _, work, loaded = one_set(folder, "text", [{"text": "water " * 9}, {"text": "x"}, {"text": "rest"}], max_length=8)
    ids = work.tokenizer.encode("water " * 9)
    pieces = work.sequences["a"][0]
    assert [s.ids for s in pieces] == [tuple(ids[i : i + 8]) for i in range(0, len(ids), 8) if len(ids) - i > 1]
    assert all(s.start == 1 for s in pieces) and not work.requests
    found = measured(work, loaded, [[-1.0] * len(pieces), [], [-2.0]], [])
    tokens = [sum(len(s.ids) - 1 for s in row) for row in work.sequences["a"]]
    assert found == [Passage(-1.0 * len(pieces), tokens[0]), Passage(-2.0, tokens[2])]  # "x" predicts nothing


def test_reading_text_needs_no_chat_template(folder: Path) -> None:
    tokenizer = save_tokenizer(folder / "plain")
    tokenizer.chat_template = None
    (folder / "plain/chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder / "plain")
    _, work, _ = one_set(folder, "text", [{"text": "rest"}], model={"path": str(folder / "plain")})
    assert work.stop_ids == ()


def test_passages_of_one_token_only_are_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match="no token to predict"):
        one_set(folder, "text", [{"text": "x"}])


def test_options_are_scored_after_the_templated_question_with_the_end_token(folder: Path) -> None:
    _, work, loaded = one_set(folder, "choice", [CHOICE])
    prompt = work.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Which?"}], add_generation_prompt=True, return_dict=False)
    for sequence, option in zip(work.sequences["a"][0], CHOICE["options"], strict=True):
        assert list(sequence.ids) == [*prompt, *work.tokenizer.encode(option), work.tokenizer.eos_token_id]
        assert sequence.start == len(prompt)
    assert "A. rest\nB. see a doctor" in work.requests["a"][0].prompt.messages[-1]["content"]
    tokens = tuple(len(work.tokenizer.encode(option)) + 1 for option in CHOICE["options"])
    found = measured(work, loaded, [[-3.0, -4.0]], [completion(work, 0, "B")])
    assert found == [Choice(1, (-3.0, -4.0), tokens, 1)]


def test_only_what_the_metrics_need_is_done(folder: Path) -> None:
    _, by_letter, loaded = one_set(folder, "choice", [CHOICE], of_set={"metrics": ["accuracy_generated"]})
    assert not by_letter.sequences and by_letter.requests
    assert by_letter.stop_ids == (by_letter.tokenizer.eos_token_id,)
    assert measured(by_letter, loaded, [], [completion(by_letter, 0, "none")]) == [Choice(1, (), (), None)]
    _, by_logprob, _ = one_set(folder, "choice", [CHOICE], of_set={"metrics": ["accuracy"]})
    assert by_logprob.sequences and not by_logprob.requests


def test_answers_bring_their_references_and_rules(folder: Path) -> None:
    _, work, loaded = one_set(folder, "reference", [{"question": "Which?", "answers": ["rest", "sleep"]}])
    (answer,) = measured(work, loaded, [], [completion(work, 0, "rest")])
    assert isinstance(answer, Answer)
    assert (answer.text, answer.references, answer.rules, answer.ended) == ("rest", ("rest", "sleep"), (), True)
    _, work, loaded = one_set(folder, "safety", [{"prompt": "Which?", "rules": ["refuses"]}])
    assert measured(work, loaded, [], [completion(work, 0, "rest")])[0].rules == ("refuses",)


def test_max_rows_takes_the_first(folder: Path) -> None:
    rows = [{"prompt": f"Question {i}?"} for i in range(5)]
    _, work, _ = one_set(folder, "prompts", rows, of_set={"max_rows": 2})
    assert [r.prompt.messages[0]["content"] for r in work.requests["a"]] == ["Question 0?", "Question 1?"]


@pytest.mark.parametrize(("task", "row"), [
    ("prompts", {"prompt": "a secret " * 60}),
    ("choice", CHOICE | {"options": ["a secret " * 60, "rest"]}),
])
def test_a_row_that_does_not_fit_is_said_by_its_number_and_not_by_its_text(folder: Path, task: str, row: dict) -> None:
    first = CHOICE if task == "choice" else {"prompt": "short"}
    with pytest.raises(DataError) as caught:
        one_set(folder, task, [first, row])
    assert "set 'a': row 2 is too long" in str(caught.value) and "secret" not in str(caught.value)
