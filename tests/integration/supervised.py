"""Data, configs and the base model of the supervised stages' tests."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tiny import save_policy

LORA = {"rank": 4, "alpha": 8.0}


def save_base(path: Path) -> Path:
    """A random causal LM whose config, like many, names no pad token."""
    save_policy(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    return path


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def conversations(count: int) -> list[dict]:
    """Answers of different lengths; every other conversation has two of them."""
    rows = []
    for i in range(count):
        turns = [{"role": "user", "content": f"Question {i}?"},
                 {"role": "assistant", "content": "Rest and drink. " * (1 + i % 3)}]
        rows.append({"messages": turns + turns if i % 2 else turns})
    return rows


def pairs(count: int) -> list[dict]:
    """The better answer says "see a doctor", whatever comes before it."""
    start = ["", "Rest. ", "Rest. Rest. "]
    return [{"prompt": f"What now ({i})?", "chosen": f"{start[i % 3]}See a doctor.",
             "rejected": f"{start[i % 3]}Never mind."} for i in range(count)]


def values(folder: Path, base: Path, name: str, data: dict, lora: dict | None = None, **sections) -> dict:
    """A config's values; `sections` are `training` and `scaling`."""
    training = {"batch_size": 8, "micro_batch_size": 4, "max_length": 128, "lr": 5e-3} | sections.get("training", {})
    scaling = {"cpus_per_worker": 1.0, "threads_per_worker": 1} | sections.get("scaling", {})
    return {"name": name, "output_dir": str(folder), "seed": 3, "model": {"path": str(base)}, "lora": lora,
            "data": data, "training": training, "scaling": scaling}


def metrics(report: dict) -> list[dict]:
    return [json.loads(line) for line in (Path(report["model"]).parent / "metrics.jsonl").read_text().splitlines()]
