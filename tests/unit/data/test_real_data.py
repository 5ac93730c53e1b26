"""Data from outside the project, where there is any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medrl.config.common import DataChecks
from medrl.data.datasets import read_conversations, read_pairs, read_prompts, read_texts, recognise

FOLDER = Path(os.environ.get("MEDRL_REAL_DATA", Path(__file__).parents[3].parent / "shared/data"))
FILES = {
    "en_sft.jsonl": (read_conversations, "conversations", "2,000 ShareGPT conversations"),
    "zh_sft.jsonl": (read_conversations, "conversations", "2,000 OpenAI conversations"),
    "en_preference.jsonl": (read_pairs, "pairs", "248 ShareGPT preference pairs, 4 bad rows"),  # equal answers
    "en_prompts.jsonl": (read_prompts, "prompts", "1,000 plain prompts"),
    "zh_prompts.jsonl": (read_prompts, "prompts", "800 plain prompts"),
    "en_pretrain.txt": (read_texts, "texts", "600 plain passages"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_recognised_and_read(name, capsys):
    read, kind, said = FILES[name]
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"no real data at {path} (set MEDRL_REAL_DATA)")
    assert recognise(path) == kind
    read(path, DataChecks(on_bad_row="skip"))
    assert capsys.readouterr().out.splitlines()[-1] == f"{path}: {said}"
