from __future__ import annotations

import json
from pathlib import Path

import pytest

from medrl.data.datasets import read_conversations, read_jsonl, read_pairs, read_prompts, read_texts
from medrl.errors import DataError

SECRET = "my chest hurts"  # stands for what a patient wrote: must never reach an error text
USER = {"role": "user", "content": SECRET}
ANSWER = {"role": "assistant", "content": "See a doctor."}
READERS = {"conversations": read_conversations, "pairs": read_pairs, "prompts": read_prompts, "texts": read_texts}
GOOD = {
    "conversations": {"messages": [USER, ANSWER]},
    "pairs": {"prompt": SECRET, "chosen": "a", "rejected": "b"},
    "prompts": {"prompt": SECRET},
    "texts": {"text": SECRET},
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_messages_and_conversations_mean_the_same(tmp_path):
    sharegpt = {
        "conversations": [
            {"from": "system", "value": "Be kind."},
            {"from": "human", "value": SECRET},
            {"from": "gpt", "value": "OK"},
        ]
    }
    openai = {
        "messages": [{"role": "system", "content": "Be kind."}, USER, {"role": "assistant", "content": "OK"}],
        "department": "x",
    }
    first, second = read_conversations(write(tmp_path / "a.jsonl", sharegpt, openai))
    assert first == second == ({"role": "system", "content": "Be kind."}, USER, {"role": "assistant", "content": "OK"})


def test_pairs_and_prompts_take_all_three_forms(tmp_path):
    rows = [{"prompt": SECRET}, {"messages": [USER]}, {"conversations": [{"from": "human", "value": SECRET}]}]
    assert read_prompts(write(tmp_path / "p.jsonl", *rows)) == [(USER,)] * 3
    pairs = read_pairs(write(tmp_path / "q.jsonl", *({**row, "chosen": "good", "rejected": "bad"} for row in rows)))
    assert [(p.messages, p.chosen, p.rejected) for p in pairs] == [((USER,), "good", "bad")] * 3


def test_texts_from_txt_and_jsonl(tmp_path):
    (tmp_path / "a.txt").write_text("\n一\r\ntwo\n\n \n\nthree\n", encoding="utf-8")
    assert read_texts(tmp_path / "a.txt") == ["一\ntwo", "three"]
    assert read_texts(write(tmp_path / "a.jsonl", {"text": "一\n\ntwo"})) == ["一\n\ntwo"]


def test_blank_lines_are_skipped_and_lines_keep_their_numbers(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\n{"a": 1}\n\n{"a": "\xe2\x80\xa8"}')  # U+2028 is no line end in JSONL
    assert list(read_jsonl(tmp_path / "a.jsonl")) == [(2, {"a": 1}), (4, {"a": "\u2028"})]


BAD_ROWS = [
    ("texts", b'{"text": "my chest hurts"', "not valid JSON"),
    ("texts", b"[" * 100_000, "not valid JSON"),
    ("texts", b'["my chest hurts"]', "must be a JSON object, got an array"),
    ("texts", b'{"txt": "my chest hurts"}', "`text` is missing"),
    ("texts", b'{"text": 3}', "`text` must be a string, got a number"),
    ("texts", b'{"text": "my chest hurts \\ud800"}', "half of a surrogate pair"),
    ("texts", b'{"text": "my chest hurts \xff"}', "not valid UTF-8"),
    ("prompts", {"prompt": " \n"}, "`prompt` is empty"),
    ("prompts", {"prompt": None}, "`prompt` must be a string, got null"),
    ("prompts", {"question": SECRET}, "exactly one of `prompt`, `messages`, `conversations` is needed, got none"),
    ("prompts", {"prompt": SECRET, "messages": [USER]}, "got prompt and messages"),
    ("prompts", {"messages": [USER, ANSWER]}, "the last turn must be the user's, but is the assistant's"),
    ("prompts", {"messages": []}, "`messages` must be a list of turns that is not empty, got an empty array"),
    ("prompts", {"messages": SECRET}, "got a string"),
    ("prompts", {"messages": [SECRET]}, "`messages[0]` must be an object, got a string"),
    ("prompts", {"messages": [{"role": SECRET, "content": "x"}]}, "`messages[0].role` is not a known role"),
    ("prompts", {"messages": [{"role": ["user"], "content": "x"}]}, "`messages[0].role` is not a known role"),
    ("prompts", {"messages": [{"role": "user", "value": SECRET}]}, "`messages[0].content` is missing"),
    ("prompts", {"conversations": [{"from": "human", "value": ""}]}, "`conversations[0].value` is empty"),
    ("conversations", {"messages": [USER]}, "the last turn must be the assistant's, but is the user's"),
    ("conversations", {"messages": [ANSWER]}, "there is no user turn"),
    ("conversations", {"messages": [USER, {"role": "assistant", "content": "  "}]}, "`messages[1].content` is empty"),
    ("conversations", {"prompt": SECRET}, "exactly one of `messages`, `conversations` is needed"),
    ("pairs", {"prompt": SECRET, "chosen": "a"}, "`rejected` is missing"),
    ("pairs", {"prompt": SECRET, "chosen": ["a"], "rejected": "b"}, "`chosen` must be a string, got an array"),
    ("pairs", {"prompt": SECRET, "chosen": "a", "rejected": ""}, "`rejected` is empty"),
    ("pairs", {"prompt": SECRET, "chosen": "a", "rejected": "a"}, "`chosen` and `rejected` are the same"),
    ("pairs", {"messages": [USER, ANSWER], "chosen": "a", "rejected": "b"}, "the last turn must be the user's"),
]


@pytest.mark.parametrize(("kind", "row", "why"), BAD_ROWS)
def test_bad_row_names_file_line_and_reason_but_not_the_text(tmp_path, kind, row, why):
    raw = row if isinstance(row, bytes) else json.dumps(row).encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD[kind]).encode() + b"\n\n" + raw + b"\n")
    with pytest.raises(DataError) as caught:
        READERS[kind](path)
    assert caught.value.message.startswith(f"{path}:3: ")
    assert why in caught.value.message
    assert caught.value.remedy
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("kind", READERS)
def test_missing_and_empty_files(tmp_path, kind):
    with pytest.raises(DataError, match="no data file at"):
        READERS[kind](tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_bytes(b"\n \n")
    with pytest.raises(DataError, match="has no rows"):
        READERS[kind](tmp_path / "empty.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="cannot read"):
        READERS[kind](tmp_path / "folder.jsonl")


def test_text_files_that_cannot_be_used(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"\n\n")
    with pytest.raises(DataError, match="has no rows"):
        read_texts(tmp_path / "empty.txt")
    (tmp_path / "bad.txt").write_bytes(b"good\nb\xffd\n")
    with pytest.raises(DataError, match=r"bad\.txt:2: not valid UTF-8"):
        read_texts(tmp_path / "bad.txt")
    with pytest.raises(DataError, match="unknown kind of text file"):
        read_texts(tmp_path / "notes.pdf")
