"""Rows in every format become the same conversations; rows that cannot be used say where and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medrl.data.datasets import read_conversations, read_pairs, read_prompts, read_texts
from medrl.errors import DataError
from medrl.types import Conversation, PreferencePair

SECRET = "my chest hurts"  # stands for what a patient wrote: must never reach an error text
SYSTEM = {"role": "system", "content": "Be kind."}
ASK = {"role": "user", "content": SECRET}
SAY = {"role": "assistant", "content": "OK"}
AGAIN = {"role": "user", "content": "And now?"}
REST = {"role": "assistant", "content": "Rest."}
TALK = (SYSTEM, ASK, SAY, AGAIN, REST)
HUMAN, GPT = {"from": "human", "value": SECRET}, {"from": "gpt", "value": "OK"}
TAIL = [{"from": "human", "value": "And now?"}, {"from": "gpt", "value": "Rest."}]
HISTORY = {"history": [[SECRET, "OK"]]}

SAME_CONVERSATION = {
    "OpenAI": {"messages": [*TALK], "department": "x"},
    "ShareGPT": {"conversations": [{"from": "system", "value": "Be kind."}, HUMAN, GPT, *TAIL]},
    "ShareGPT with a system key": {"system": "Be kind.", "conversations": [HUMAN, GPT, *TAIL]},
    "ShareGPT with MedicalGPT's system key": {"system_prompt": "Be kind.", "conversations": [HUMAN, GPT, *TAIL]},
    "ShareGPT with OpenAI's turns": {"conversations": [*TALK]},
    "a system turn comes before the key": {"system": "Be rude.", "messages": [*TALK]},
    "an empty system key is none": {"system": " ", "messages": [*TALK]},
    "Alpaca": {"system": "Be kind.", "instruction": "And now?", "input": "", "output": "Rest.", **HISTORY},
    "question and answer": {"system": "Be kind.", "question": "And now?", "answer": "Rest.", **HISTORY},
    "prompt and response": {"system": "Be kind.", "prompt": "And now?", "response": "Rest.", **HISTORY},
    "prompt and answer": {"system": "Be kind.", "prompt": "And now?", "answer": "Rest.", **HISTORY},
    "prompt and completion as turns": {"prompt": [*TALK[:-1]], "completion": [REST]},
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", SAME_CONVERSATION)
def test_every_format_gives_the_same_conversation(tmp_path, name):
    assert read_conversations(write(tmp_path / "a.jsonl", SAME_CONVERSATION[name])) == [Conversation(TALK)]


def test_an_alpaca_input_follows_its_instruction(tmp_path):
    row = {"instruction": "Translate.", "input": "感冒", "output": "A cold."}
    (talk,) = read_conversations(write(tmp_path / "a.jsonl", row))
    assert talk.messages[0] == {"role": "user", "content": "Translate.\n感冒"}


@pytest.mark.parametrize("given", [[{"name": "look_up"}], '[{"name": "look_up"}]'])
def test_tools_and_the_roles_around_them(tmp_path, given):
    turns = [HUMAN, {"from": "function_call", "value": "{}"}, {"from": "observation", "value": "38.5"}, GPT]
    (talk,) = read_conversations(write(tmp_path / "a.jsonl", {"conversations": turns, "tools": given}))
    assert [turn["role"] for turn in talk.messages] == ["user", "assistant", "tool", "assistant"]
    assert talk.tools == ({"name": "look_up"},)
    prompt = {"messages": [ASK, SAY, {"role": "tool", "content": "38.5"}]}
    assert len(read_prompts(write(tmp_path / "b.jsonl", prompt))[0]) == 3


SAME_PAIR = {
    "prompt": {"prompt": SECRET, "chosen": "good", "rejected": "bad"},
    "OpenAI": {"messages": [ASK], "chosen": "good", "rejected": "bad"},
    "ShareGPT": {"conversations": [HUMAN], "chosen": "good", "rejected": "bad"},
    "MedicalGPT": {"system": "", "history": [], "question": SECRET, "response_chosen": "good",
                   "response_rejected": "bad"},
    "answers as a list of one turn": {"prompt": [ASK], "chosen": [{"role": "assistant", "content": "good"}],
                                      "rejected": [{"role": "assistant", "content": "bad"}]},
    "answers as a turn": {"conversations": [HUMAN], "chosen": {"from": "gpt", "value": "good"},
                          "rejected": {"from": "gpt", "value": "bad"}},
    "answers as whole conversations": {"chosen": [ASK, {"role": "assistant", "content": "good"}],
                                       "rejected": [ASK, {"role": "assistant", "content": "bad"}]},
    "whole conversations and more beside": {"prompt": SECRET, "messages": [ASK, SAY],
                                            "chosen": [ASK, {"role": "assistant", "content": "good"}],
                                            "rejected": [ASK, {"role": "assistant", "content": "bad"}]},
}


@pytest.mark.parametrize("name", SAME_PAIR)
def test_every_format_gives_the_same_pair(tmp_path, name):
    assert read_pairs(write(tmp_path / "a.jsonl", SAME_PAIR[name])) == [PreferencePair((ASK,), "good", "bad")]


def test_prompts_leave_answers_aside(tmp_path):
    rows = [{"prompt": SECRET}, {"messages": [ASK]}, {"conversations": [HUMAN]}, {"question": SECRET, "answer": "OK"},
            {"instruction": SECRET, "output": "OK"}]
    assert read_prompts(write(tmp_path / "p.jsonl", *rows)) == [(ASK,)] * 5


def turns(*messages: object) -> dict:
    return {"messages": list(messages)}


def pair(chosen: object, rejected: object = "b") -> dict:
    return {"prompt": SECRET, "chosen": chosen, "rejected": rejected}


READERS = {"conversations": read_conversations, "pairs": read_pairs, "prompts": read_prompts, "texts": read_texts}
GOOD = {"conversations": turns(ASK, SAY), "pairs": pair("a"), "prompts": {"prompt": SECRET}, "texts": {"text": SECRET}}
CONTEXTS = "exactly one of `messages`, `conversations`, `instruction`, `question`, `prompt` is needed"
BAD_ROWS = [
    ("texts", b'{"text": "my chest hurts"', "not valid JSON (Expecting ',' delimiter at column 26)"),
    ("texts", b"[" * 100_000, "not valid JSON (nested too deep)"),
    ("texts", b'{"text": "my chest hurts"} {}', "not valid JSON (Extra data at column 28)"),
    ("texts", b'{"n": ' + b"1" * 5000 + b"}", "not valid JSON (a number with too many digits)"),
    ("texts", b'["my chest hurts"]', "a row must be a JSON object, got an array"),
    ("texts", b"null", "a row must be a JSON object, got null"),
    ("texts", b'{"txt": "my chest hurts"}', "`text` is missing"),
    ("texts", b'{"text": 3}', "`text` must be a string, got a number"),
    ("texts", b'{"text": "my chest hurts \\ud800"}', "`text` holds half of a surrogate pair"),
    ("texts", b'{"text": "my chest hurts \xff"}', "not valid UTF-8 (byte 25 of the line)"),
    ("texts", '{"text": "胸口疼"}'.encode("gbk"), "not valid UTF-8 (byte 10 of the line)"),
    ("prompts", {"prompt": " \n"}, "`prompt` is empty"),
    ("prompts", {"prompt": None}, "`prompt` must be a string, got null"),
    ("prompts", {"query": SECRET}, f"{CONTEXTS}, got none"),
    ("prompts", {"prompt": SECRET, "messages": [ASK]}, f"{CONTEXTS}, got messages and prompt"),
    ("prompts", turns(ASK, SAY), "the last turn must be the user's, but is the assistant's"),
    ("prompts", turns(), "`messages` must be a list of turns that is not empty, got an empty array"),
    ("prompts", {"messages": SECRET}, "`messages` must be a list of turns that is not empty, got a string"),
    ("prompts", turns(SECRET), "`messages[0]` must be an object, got a string"),
    ("prompts", turns({"role": SECRET, "content": "x"}), "`messages[0].role` is not a known role"),
    ("prompts", turns({"role": ["user"], "content": "x"}), "`messages[0].role` is not a known role"),
    ("prompts", turns({"content": SECRET}), "`messages[0].role` is not a known role"),
    ("prompts", turns({"role": "user", "value": SECRET}), "`messages[0].content` is missing"),
    ("prompts", turns({"role": "user", "content": [{"text": SECRET}]}),
     "`messages[0].content` must be a string, got an array"),
    ("prompts", {"conversations": [{"from": "human", "value": ""}]}, "`conversations[0].value` is empty"),
    ("prompts", turns({"role": "system", "content": SECRET}), "the last turn must be the user's, but is the system's"),
    ("prompts", {"prompt": "x", "history": SECRET}, "`history` must be a list of [question, answer] pairs, got a s"),
    ("prompts", {"prompt": "x", "history": [[SECRET]]}, "`history[0]` must be a [question, answer] pair"),
    ("prompts", {"prompt": "x", "history": [[SECRET, None]]}, "`history[0].1` must be a string, got null"),
    ("prompts", {"prompt": "x", "system": [SECRET]}, "`system` must be a string, got an array"),
    ("conversations", turns(ASK), "the last turn must be the assistant's, but is the user's"),
    ("conversations", turns(SAY), "there is no user turn"),
    ("conversations", turns(ASK, {"role": "assistant", "content": "  "}), "`messages[1].content` is empty"),
    ("conversations", turns(ASK, {"role": "assistant", "content": SECRET, "tool_calls": [{}]}, SAY),
     "`messages[1].tool_calls` is not read"),
    ("conversations", turns(ASK, SAY) | {"tools": SECRET}, "`tools` is not valid JSON"),
    ("conversations", turns(ASK, SAY) | {"tools": [SECRET]}, "`tools` must be a list of objects"),
    ("conversations", {"prompt": SECRET},
     "exactly one of `response`, `completion`, `answer` is needed, got none"),
    ("conversations", {"prompt": SECRET, "answer": "a", "response": "b"},
     "exactly one of `response`, `completion`, `answer` is needed, got response and answer"),
    ("conversations", {"question": SECRET, "answer": ""}, "`answer` is empty"),
    ("conversations", {"instruction": SECRET}, "`output` is missing"),
    ("conversations", {"instruction": SECRET, "input": 3, "output": "x"}, "`input` must be a string, got a number"),
    ("pairs", {"prompt": SECRET, "chosen": "a"}, "`rejected` is missing"),
    ("pairs", {"prompt": SECRET}, "`chosen` is missing"),
    ("pairs", {"chosen": "a", "rejected": "b"}, f"{CONTEXTS}, got none"),
    ("pairs", pair(["a"]), "`chosen[0]` must be an object, got a string"),
    ("pairs", pair([]), "`chosen` must be a list of turns that is not empty"),
    ("pairs", pair([ASK]), "the last turn of `chosen` must be the assistant's, but is the user's"),
    ("pairs", pair([SAY, ASK, SAY], [SAY, ASK, REST]), "`chosen` must be one answer, or begin with the prompt"),
    ("pairs", pair([ASK, SAY], [AGAIN, REST]), "`chosen` and `rejected` answer different prompts"),
    ("pairs", pair("a", ""), "`rejected` is empty"),
    ("pairs", pair("a", "a"), "`chosen` and `rejected` are the same"),
    ("pairs", turns(ASK, SAY) | {"chosen": "a", "rejected": "b"}, "the last turn must be the user's"),
    ("pairs", {"question": SECRET, "response_chosen": "a"}, "`response_rejected` is missing"),
]


@pytest.mark.parametrize(("kind", "row", "why"), BAD_ROWS)
def test_a_bad_row_names_file_line_and_reason_but_not_the_text(tmp_path, kind, row, why):
    raw = row if isinstance(row, bytes) else json.dumps(row).encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD[kind]).encode() + b"\n\n" + raw + b"\n")
    with pytest.raises(DataError) as caught:
        READERS[kind](path)
    assert caught.value.message.startswith(f"{path}:3: {why}")
    assert caught.value.remedy
    assert SECRET not in str(caught.value)


BAD_ROWS_OF_OTHER_FILES = [
    ("a.json", '[{"prompt": "x"},\n{"prompt": "x"}, {"prompt": ""}]', 2, "`prompt` is empty"),
    ("a.csv", 'id,prompt\n1,x\n2,"x\ny"\n3,"x",y\n', 5, "3 cells under 2 column names"),
    ("a.csv", 'id,prompt\n1,x\n2\n', 3, "1 cells under 2 column names"),
    ("a.csv", 'id,prompt\n1,x\n2,"x" y\n', 3, "not valid CSV"),
    ("a.csv", 'id,prompt\n1,x\n2,"x y\n', 3, "not valid CSV (unexpected end of data)"),
    ("a.csv", b"id,prompt\n1,\xff\n", 2, "not valid UTF-8 (in a cell)"),
    ("a.txt", b"x\n\ny\nz \xff\n", 4, "not valid UTF-8 (byte 2 of the line)"),
]


@pytest.mark.parametrize(("name", "content", "line", "why"), BAD_ROWS_OF_OTHER_FILES)
def test_a_bad_row_of_any_kind_of_file_names_its_line(tmp_path, name, content, line, why):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        READERS["texts" if name == "a.txt" else "prompts"](tmp_path / name)
    assert caught.value.message.startswith(f"{tmp_path / name}:{line}: {why}")
