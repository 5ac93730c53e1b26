"""Scalars for TensorBoard, written by its own writer: no torch, no TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class TensorBoardTracker:
    """One event file a process under `<run>/tensorboard`. Text stays out of it."""

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        self._writer = EventFileWriter(str(run_dir / "tensorboard"))
        if resume_step is not None:
            # TensorBoard drops what earlier files of the folder say about this step and later ones.
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=resume_step + 1, session_log=start))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in metrics.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._writer.flush()

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        return

    def close(self) -> None:
        self._writer.close()
