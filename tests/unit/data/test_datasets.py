"""Whole sets of rows, as the stages read them: what is said, what is left out, what stops a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medrl.config.common import DataChecks
from medrl.data.datasets import read_conversations, read_pairs, read_prompts, read_texts, recognise
from medrl.errors import DataError

SECRET = "my chest hurts"  # stands for what a patient wrote: must never reach an error text
READERS = {"conversations": read_conversations, "pairs": read_pairs, "prompts": read_prompts, "texts": read_texts}
ASK = {"role": "user", "content": SECRET}
SAY = {"role": "assistant", "content": "See a doctor."}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_format_is_said_with_the_number_of_rows(tmp_path, capsys):
    sharegpt = {"conversations": [{"from": "human", "value": SECRET}, {"from": "gpt", "value": "OK"}]}
    path = write(tmp_path / "zh_sft.jsonl", *[sharegpt] * 1000, {"messages": [ASK, SAY]})
    assert len(read_conversations(path)) == 1001
    assert capsys.readouterr().out == f"{path}: 1,000 ShareGPT conversations, 1 OpenAI conversations\n"


def test_a_directory_is_read_in_the_order_of_its_names_each_file_in_its_own_format(tmp_path, capsys):
    write(tmp_path / "b.jsonl", {"prompt": "third"})
    (tmp_path / "a.csv").write_text("question,answer\nfirst,x\nsecond,y\n")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/d.json").write_text('[{"instruction": "fourth"}]')
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / ".hidden.jsonl").write_text("not data")
    prompts = read_prompts(tmp_path)
    assert [messages[0]["content"] for messages in prompts] == ["first", "second", "third", "fourth"]
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/a.csv: 2 question/answer prompts", f"{tmp_path}/b.jsonl: 1 plain prompts",
        f"{tmp_path}/c/d.json: 1 Alpaca prompts"]


def test_bad_rows_are_left_out_one_by_one_and_counted(tmp_path, capsys):
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"prompt": "a"}}\nnot JSON {SECRET}\n{{"prompt": 3}}\n\n{{"prompt": "b"}}\n')
    prompts = read_prompts(path, DataChecks(on_bad_row="skip"))
    assert [messages[0]["content"] for messages in prompts] == ["a", "b"]
    assert capsys.readouterr().out.splitlines() == [
        f"{path}:2: left out: not valid JSON (Expecting value at column 1)",
        f"{path}:3: left out: `prompt` must be a string, got a number",
        f"{path}: 2 plain prompts, 2 bad rows"]


def test_there_is_a_limit_to_bad_rows(tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": "a"}, *[{"prompt": ""}] * 3)
    assert len(read_prompts(path, DataChecks(on_bad_row="skip", max_bad_rows=3))) == 1
    with pytest.raises(DataError, match="too many bad rows") as caught:
        read_prompts(path, DataChecks(on_bad_row="skip", max_bad_rows=2))
    assert caught.value.limit == "at most 2 (max_bad_rows)" and caught.value.got == "3 up to line 4"
    only_bad = write(tmp_path / "q.jsonl", {"prompt": ""})
    with pytest.raises(DataError, match="no good rows"):
        read_prompts(only_bad, DataChecks(on_bad_row="skip"))


@pytest.mark.parametrize("kind", READERS)
def test_missing_and_empty_files(tmp_path, kind):
    for name in ("none.jsonl", "none.parquet", "none"):
        with pytest.raises(DataError, match="no data file at"):
            READERS[kind](tmp_path / name)
    for name, content in (("a.jsonl", "\n \n"), ("a.json", " [ ]\n"), ("a.csv", "prompt\n"), ("a.txt", "\n\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match="has no rows"):
            READERS[kind](tmp_path / name)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="cannot read"):
        READERS[kind](tmp_path / "folder.jsonl")
    with pytest.raises(DataError, match="unknown kind of data file"):
        READERS[kind](tmp_path / "notes.pdf")


KINDS = [
    ("pairs", {"prompt": "a", "chosen": "b"}),  # a lost answer must not make it a prompt
    ("pairs", {"question": "a", "response_chosen": "b", "response_rejected": "c"}),
    ("conversations", {"messages": [ASK, SAY]}),
    ("conversations", {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
    ("conversations", {"instruction": "a", "input": "", "output": "b"}),
    ("conversations", {"prompt": "a", "response": "b"}),
    ("prompts", {"messages": [ASK]}),
    ("prompts", {"instruction": "a", "output": ""}),
    ("prompts", {"question": "a"}),
    ("texts", {"text": "a"}),
]


@pytest.mark.parametrize(("kind", "row"), KINDS)
def test_the_kind_is_that_of_most_of_the_first_rows(tmp_path, kind, row):
    other = {"text": "x"} if kind != "texts" else {"prompt": "x"}
    assert recognise(write(tmp_path / "a.jsonl", other, "no object", row, row, {"what": 1})) == kind


def test_a_format_nobody_knows(tmp_path):
    with pytest.raises(DataError, match="not recognised"):
        recognise(write(tmp_path / "a.jsonl", {"query": SECRET}))
