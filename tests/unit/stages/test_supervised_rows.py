"""What the supervised stages make of data files before any worker starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrl.config.base import build_config
from medrl.config.common import SupervisedData
from medrl.config.supervised import PretrainConfig, RewardConfig, SftConfig
from medrl.data.tables import build_rows, pair_rows
from medrl.errors import ConfigError, DataError, ModelError
from medrl.stages.pretrain import pack, run_pretrain, text_rows
from medrl.stages.reward import answer_rows, run_reward
from medrl.stages.sft import conversation_rows, run_sft
from medrl.workers.supervised import checked_tokenizer
from tests.tiny import save_policy, save_tokenizer

END = 0
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Rest."},
        {"role": "user", "content": "and then?"}, {"role": "assistant", "content": "Drink water."}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_policy(tmp_path_factory.mktemp("model") / "policy"))


def jsonl(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=9), min_size=1), st.integers(2, 7))
def test_packing_loses_and_invents_nothing(documents: list[list[int]], size: int) -> None:
    blocks = pack(documents, END, size)
    expected = [token for ids in documents for token in [*ids, END]]
    joined = [token for block in blocks for token in block]
    assert joined == expected or joined == expected[:-1] and len(expected) % size == 1
    assert all(len(block) == size for block in blocks[:-1]) and len(blocks[-1]) >= 2


def test_a_document_that_has_its_end_token_gets_no_second_one() -> None:
    assert pack([[1, 2, END], [3]], END, 8) == [[1, 2, END, 3, END]]


def test_texts_become_blocks_that_decode_to_the_texts(tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Rest and drink.\n\n多喝水。\n")
    rows = text_rows(tokenizer, str(path), 10)
    ids = [token for block in rows.table["input_ids"].to_pylist() for token in block]
    assert tokenizer.decode(ids) == "Rest and drink.<|im_end|>多喝水。<|im_end|>"
    assert rows.table["labels"] == rows.table["input_ids"] and rows.tokens == len(ids) and rows.dropped == 0


def test_only_what_the_assistant_says_is_learned(tokenizer, tmp_path: Path) -> None:
    rows = conversation_rows(tokenizer, jsonl(tmp_path / "a.jsonl", {"messages": CHAT}), 128)
    ids, labels = rows.table["input_ids"][0].as_py(), rows.table["labels"][0].as_py()
    assert tokenizer.decode([label for label in labels if label != -100]) == "Rest.<|im_end|>Drink water.<|im_end|>"
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))


def test_a_pair_becomes_two_whole_conversations(tokenizer, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "hi", "chosen": "Rest.", "rejected": "No."})
    rows = pair_rows(tokenizer, path, 128)
    header = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(rows.table["chosen_ids"][0].as_py()) == header + "Rest.<|im_end|>"
    assert tokenizer.decode(rows.table["rejected_ids"][0].as_py()) == header + "No.<|im_end|>"


def test_a_calibration_answer_is_read_as_the_chosen_answer_of_a_pair_is(tokenizer, tmp_path: Path) -> None:
    answers = answer_rows(tokenizer, jsonl(tmp_path / "a.jsonl", {"messages": CHAT}), 128)
    pair = {"messages": CHAT[:-1], "chosen": "Drink water.", "rejected": "No."}
    pairs = pair_rows(tokenizer, jsonl(tmp_path / "b.jsonl", pair), 128)
    assert answers.table["input_ids"][0] == pairs.table["chosen_ids"][0]


def test_rows_that_are_too_long_are_left_out_and_said(capsys: pytest.CaptureFixture) -> None:
    rows = build_rows([{"a": [1], "b": [1, 2, 3]}, {"a": [1], "b": [4]}], "x.jsonl", 2)
    assert rows.table.to_pylist() == [{"a": [1], "b": [4]}] and rows.dropped == 1
    assert "x.jsonl: left out 1 of 2 rows" in capsys.readouterr().out


def test_rows_are_cut_as_the_config_says_and_counted(
    tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture,
) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"messages": CHAT}, {"messages": CHAT[:2]}, {"messages": CHAT[2:]})
    short = len(conversation_rows(tokenizer, jsonl(tmp_path / "b.jsonl", {"messages": CHAT[2:]}), 128).table[0][0])
    dropped = conversation_rows(tokenizer, path, short)
    left = conversation_rows(tokenizer, path, short, SupervisedData(too_long="left"))
    assert (dropped.dropped, dropped.cut, left.dropped, left.cut) == (1, 0, 0, 1)
    assert left.table["input_ids"][0] == left.table["input_ids"][2]
    assert f"{path}: cut 1 of 3 rows down to training.max_length {short} tokens" in capsys.readouterr().out


def test_bad_rows_are_skipped_where_the_config_says_so(tokenizer, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"messages": CHAT}, {"messages": []})
    with pytest.raises(DataError, match="a.jsonl:2: `messages` must be a list of turns"):
        conversation_rows(tokenizer, path, 128)
    assert len(conversation_rows(tokenizer, path, 128, SupervisedData(on_bad_row="skip")).table) == 1


def test_no_row_that_fits_is_an_error() -> None:
    with pytest.raises(DataError, match="every row is too long") as error:
        build_rows([{"a": [1] * 9}, {"a": [1] * 5}], "x.jsonl", 4)
    assert error.value.got == "2 rows of 5 tokens or more"


def config_values(model: str, **training) -> dict:
    return {"name": "x", "model": {"path": model}, "data": {"train": "missing.txt", "eval": "missing.txt"},
            "training": {"max_length": 64} | training}


def test_max_length_beyond_the_context_is_refused(model: str) -> None:
    with pytest.raises(ConfigError, match="more than the model can read") as error:
        checked_tokenizer(build_config(PretrainConfig, config_values(model, max_length=129)))
    assert "128" in error.value.limit


def test_evaluation_in_training_needs_held_out_data(model: str, tmp_path: Path) -> None:
    values = config_values(model, eval_every=2)
    train = jsonl(tmp_path / "a.jsonl", {"messages": CHAT})
    with pytest.raises(ConfigError, match="eval_every needs held-out data"):
        run_sft(build_config(SftConfig, values | {"data": {"train": train}, "output_dir": str(tmp_path)}))


def test_the_trackers_need_the_log_they_follow(model: str) -> None:
    with pytest.raises(ConfigError, match="tracking must have jsonl"):
        build_config(PretrainConfig, config_values(model) | {"tracking": ["console", "mlflow"]})


@pytest.mark.parametrize(("training", "why"), [
    ({"patience": 2}, "set eval_every"), ({"eval_every": 2, "zero_stage": 3}, "zero_stage 0, 1 or 2")])
def test_impossible_evaluations_are_refused(model: str, training: dict, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        build_config(PretrainConfig, config_values(model, **training))


@pytest.mark.parametrize("stage", [0, 3])
def test_deepspeed_on_cpus_needs_float32(model: str, stage: int) -> None:
    values = config_values(model, zero_stage=stage)
    checked_tokenizer(build_config(PretrainConfig, values))
    with pytest.raises(ConfigError, match="zero_stage on CPUs needs float32"):
        checked_tokenizer(build_config(PretrainConfig, values | {"model": {"path": model, "dtype": "bfloat16"}}))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(model: str, tmp_path: Path) -> None:
    save_tokenizer(tmp_path, vocab_size=330)
    values = config_values(model)
    values["model"]["tokenizer"] = str(tmp_path)
    with pytest.raises(ModelError, match="does not belong to the model"):
        checked_tokenizer(build_config(PretrainConfig, values))


@pytest.mark.parametrize(
    ("run", "config"), [(run_pretrain, PretrainConfig), (run_sft, SftConfig), (run_reward, RewardConfig)])
def test_bad_input_fails_before_a_run_folder_is_made(run, config, model: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no data file"):
        run(build_config(config, config_values(model)))
    with pytest.raises(ModelError, match="no model at"):
        run(build_config(config, config_values("nowhere")))
    assert not list(tmp_path.iterdir())
