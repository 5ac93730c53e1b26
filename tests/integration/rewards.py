"""Reward functions that tests name in configs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


def length(messages: list, answers: list[str]) -> list[float]:
    return [len(answer) / 10 for answer in answers]


def raises(messages: list, answers: list[str]) -> list[float]:
    raise LookupError("no such drug table")


def slow_length(messages: list, answers: list[str]) -> list[float]:
    time.sleep(1.0)
    return length(messages, answers)


def records_its_worker(messages: list, answers: list[str]) -> list[float]:
    """Leaves what it finds in its process in the file that SET_UP_OF_WORKER names."""
    import torch

    variables = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")}
    Path(os.environ["SET_UP_OF_WORKER"]).write_text(json.dumps({"threads": torch.get_num_threads(), **variables}))
    return length(messages, answers)
