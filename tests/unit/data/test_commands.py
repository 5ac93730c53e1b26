"""`medrl data …`: what is said of a file, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medrl.config.common import DataChecks
from medrl.data.chat import encode_answer, encode_conversation, encode_prompt
from medrl.data.check import run_data_check
from medrl.data.convert import run_convert, run_split
from medrl.data.datasets import STRICT, read_conversations, read_pairs, read_prompts, read_texts
from medrl.data.stats import count_tokens, describe
from medrl.errors import DataError

ASK, SAY = {"role": "user", "content": "Cold?"}, {"role": "assistant", "content": "Rest."}
ROWS = {
    "texts": (read_texts, [{"text": "一\n\ntwo"}]),
    "conversations": (read_conversations, [{"instruction": "Cold?", "output": "Rest.", "system": "Be kind."},
                                           {"messages": [ASK, SAY], "tools": '[{"name": "look_up"}]'}]),
    "pairs": (read_pairs, [{"question": "Cold?", "response_chosen": "Rest.", "response_rejected": "No."},
                           {"chosen": [ASK, SAY], "rejected": [ASK, {"role": "assistant", "content": "No."}]}]),
    "prompts": (read_prompts, [{"prompt": "感冒?"}, {"conversations": [{"from": "human", "value": "Cold?"}]}]),
}


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", ROWS)
def test_converted_rows_are_read_back_the_same(tmp_path, kind):
    read, rows = ROWS[kind]
    source, out = write(tmp_path / "a.jsonl", *rows), tmp_path / "new/b.jsonl"
    run_convert([source], str(out), None, STRICT)
    assert read(out) == read(source)
    run_convert([str(out)], str(tmp_path / "c.jsonl"), None, STRICT)
    assert (tmp_path / "c.jsonl").read_bytes() == out.read_bytes()


def test_a_conversion_that_fails_leaves_nothing_and_replaces_nothing(tmp_path):
    source = write(tmp_path / "a.jsonl", {"prompt": "a"}, {"prompt": ""}, {"prompt": "b"})
    with pytest.raises(DataError, match=r"a\.jsonl:2: `prompt` is empty"):
        run_convert([source], str(tmp_path / "b.jsonl"), None, STRICT)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    run_convert([source], str(tmp_path / "b.jsonl"), None, DataChecks(on_bad_row="skip"))
    assert [row["messages"][0]["content"] for row in lines(tmp_path / "b.jsonl")] == ["a", "b"]
    with pytest.raises(DataError, match="exists already"):
        run_convert([source], str(tmp_path / "b.jsonl"), None, STRICT)


def openings(path: Path) -> set[str]:
    return {" ".join(row["messages"][0]["content"].lower().split()) for row in lines(path)}


def test_no_prompt_is_on_both_sides_of_a_split(tmp_path, capsys):
    rows = [{"question": ("Cold  " if i % 2 else "cold ") + str(i % 300), "answer": f"Rest {i % 200}."}
            for i in range(1400)]
    source = write(tmp_path / "a.jsonl", *rows)
    run_split([source], str(tmp_path / "s"), None, 0.2, 0, STRICT)
    train, held = tmp_path / "s/train.jsonl", tmp_path / "s/heldout.jsonl"
    assert not openings(train) & openings(held) and len(openings(train) | openings(held)) == 300
    assert len(lines(train)) + len(lines(held)) == 1400
    assert 35 < len(openings(held)) < 85  # 60, give or take 3.6 deviations
    said = capsys.readouterr().out
    assert f"{held}: {len(lines(held)):,} rows, {len(openings(held))} prompts" in said
    repeated = 1400 - len({(row["question"], row["answer"]) for row in rows})
    assert repeated and f"{repeated:,} rows repeat an earlier one" in said
    run_data_check([str(train)], None, str(held), 5)  # no leak


def test_a_prompt_goes_to_the_same_side_in_any_file_but_not_with_any_seed(tmp_path):
    first = write(tmp_path / "a.jsonl", *({"prompt": f"Cold {i}?"} for i in range(100)))
    second = write(tmp_path / "b.jsonl", *({"prompt": f"cold  {i}?"} for i in range(50, 150)))
    for name, source, seed in (("a", first, 0), ("b", second, 0), ("c", first, 1)):
        run_split([source], str(tmp_path / name), None, 0.5, seed, STRICT)
    a, b, c = ({side: openings(tmp_path / name / f"{side}.jsonl") for side in ("train", "heldout")} for name in "abc")
    assert not a["train"] & b["heldout"] and not a["heldout"] & b["train"]
    assert a["train"] & c["heldout"]


def test_a_split_with_an_empty_side_is_refused(tmp_path):
    source = write(tmp_path / "a.jsonl", {"prompt": "a"})
    with pytest.raises(DataError, match="no prompt falls into heldout.jsonl"):
        run_split([source], str(tmp_path / "s"), None, 0.0, 0, STRICT)
    assert not list((tmp_path / "s").iterdir())


def test_check_says_every_file_and_the_first_problems(tmp_path, capsys):
    write(tmp_path / "a.jsonl", {"prompt": "a"}, *[{"prompt": 3}] * 5)
    (tmp_path / "b.csv").write_text("text\nx\n")
    with pytest.raises(DataError, match="5 bad rows"):
        run_data_check([str(tmp_path)], None, None, 2)
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/a.jsonl:{line}: `prompt` must be a string, got a number" for line in (2, 3)] + [
        "… and 3 more problems", f"{tmp_path}/a.jsonl: 1 plain prompts, 5 bad rows",
        f"{tmp_path}/b.csv: 1 plain passages"]


def test_check_finds_prompts_of_the_test_data_in_other_words_case_and_width(tmp_path, capsys):
    train = write(tmp_path / "train.jsonl", {"question": "Flu?", "answer": "Rest."},
                  {"system": "Be kind.", "messages": [{"role": "user", "content": "cold  ？"}, SAY]})
    test = write(tmp_path / "test.jsonl", {"prompt": "Cold ?"}, {"prompt": "Fever?"})
    with pytest.raises(DataError, match="0 bad rows and 1 rows with prompts of"):
        run_data_check([train], None, test, 5)
    assert f"{train}:2: the prompt is in the other data too" in capsys.readouterr().out


def test_stats_are_those_of_the_rows(tmp_path):
    texts = ["x" * n for n in (1, 2, 3, 94)] + ["x"]
    source = write(tmp_path / "a.jsonl", *({"text": text} for text in texts), {"text": 3})
    said = list(describe(source, "texts"))
    assert said[0] == f"{source}: 5 plain passages, 1 bad rows"
    assert said[2].split() == ["characters", "20.2", "2", "76", "94"]  # 95%: 3 + 0.8 · 91
    assert said[3].strip() == "1 rows repeat an earlier one, 1 an earlier prompt"


def test_tokens_are_counted_as_the_stages_encode(tokenizer, tmp_path):
    talk = read_conversations(write(tmp_path / "a.jsonl", {"messages": [ASK, SAY]}))[0]
    pair = read_pairs(write(tmp_path / "b.jsonl", {"prompt": "Cold?", "chosen": "Rest.", "rejected": "No, " * 9}))[0]
    assert count_tokens(tokenizer, talk) == len(encode_conversation(tokenizer, [ASK, SAY])[0])
    assert count_tokens(tokenizer, (ASK,)) == len(encode_prompt(tokenizer, [ASK]))
    assert count_tokens(tokenizer, pair) == len(encode_answer(tokenizer, [ASK], "No, " * 9, ended=True))
    assert count_tokens(tokenizer, "Cold?") == len(tokenizer("Cold?", add_special_tokens=False)["input_ids"])
