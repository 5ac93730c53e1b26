"""What a worker records of its calls."""

from __future__ import annotations

import gzip
import inspect
import json
import time

import pytest
import torch

from medrl.profile.recorder import Recorded


class Worker(Recorded):
    def add(self, a: int, *, b: int = 2) -> int:
        """Adds."""
        return a + b

    def matmul(self, secret: str) -> float:
        return float((torch.ones(8, 8) @ torch.ones(8, 8)).sum()) + len(secret)

    def fail(self) -> None:
        raise ValueError("no")

    def _private(self) -> int:
        return self.add(1)


def test_calls_are_what_they_were() -> None:
    worker = Worker()
    assert worker.add(1) == 3 and worker.add(1, b=5) == 6
    assert str(inspect.signature(Worker.add)) == "(self, a: 'int', *, b: 'int' = 2) -> 'int'"
    assert Worker.add.__doc__ == "Adds."


def test_only_what_is_between_start_and_stop_is_recorded() -> None:
    worker = Worker()
    worker.add(1)
    before = time.time_ns()
    worker.start_recording(operators=False)
    worker.add(1)
    worker._private()
    recording = worker.stop_recording()
    after = time.time_ns()
    worker.add(1)
    assert [call.name for call in recording.calls] == ["add", "add"] and recording.trace == b""
    assert before <= recording.calls[0].start <= recording.calls[0].end <= recording.calls[1].start <= after
    assert worker.stop_recording().calls == ()


def test_a_call_that_fails_is_recorded_too() -> None:
    worker = Worker()
    worker.start_recording(operators=False)
    with pytest.raises(ValueError, match="no"):
        worker.fail()
    assert [call.name for call in worker.stop_recording().calls] == ["fail"]


def test_the_trace_has_the_call_and_its_operators_but_not_what_it_was_given() -> None:
    worker = Worker()
    worker.start_recording(operators=True)
    worker.matmul("chest pain")
    text = gzip.decompress(worker.stop_recording().trace).decode()
    spans = {event["name"]: event for event in json.loads(text)["traceEvents"] if event.get("ph") == "X"}
    call, operator = spans["matmul"], spans["aten::mm"]
    assert call["ts"] <= operator["ts"] and operator["ts"] + operator["dur"] <= call["ts"] + call["dur"]
    assert "chest pain" not in text


def test_a_recording_that_was_never_taken_in_is_given_up() -> None:
    worker = Worker()
    worker.start_recording(operators=True)
    worker.matmul("")
    worker.start_recording(operators=True)
    worker.add(1)
    recording = worker.stop_recording()
    assert [call.name for call in recording.calls] == ["add"]
    assert "aten::mm" not in gzip.decompress(recording.trace).decode()
