"""Runs in MLflow: settings, metrics, results and where they come from. Answers' text is not sent.

Imported only when it is chosen: MLflow takes seconds to import.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from medrl.errors import MedrlError
from medrl.tracking.lineage import lineage

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before the import: MLflow reports its use otherwise
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

from mlflow.entities import Metric, Param, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

EXPERIMENT = "medrl"
RUN_FILE = "mlflow.json"  # the run's id, for a resume
STEP = "step"  # logged with every step, so that one query says which steps are there
RESULTS = ("summary.json", "report.json")  # what a run writes at its end
PARAMS_AT_ONCE, PARAM_LENGTH = 100, 6000  # MLflow's limits
ODD = re.compile(r"[^\w\-. :/]")  # what MLflow takes in no name


class MlflowTracker:
    """One MLflow run, which a resume continues. Steps that an earlier process has logged are not logged again.

    Where to: the config's `mlflow.uri`, else MLFLOW_TRACKING_URI, else SQLite under <output_dir>. A server that does
    not answer, after MLflow's own retries, is a MedrlError.
    """

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        self._run_dir = run_dir
        config = run_dir / "config.yaml"
        settings = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
        with _explained():
            self._client, artifacts = _connect(run_dir.parent.absolute(), settings.get("mlflow", {}).get("uri"))
            file = run_dir / RUN_FILE
            if resume_step is not None and file.is_file():
                self._id = json.loads(file.read_text(encoding="utf-8"))["run_id"]
                self._client.update_run(self._id, status="RUNNING")
                self._last = max((m.step for m in self._client.get_metric_history(self._id, STEP)), default=-1)
            else:
                self._id, self._last = self._start(settings, artifacts), -1
                file.write_text(json.dumps({"run_id": self._id}) + "\n", encoding="utf-8")
        self._open = True

    def _start(self, settings: Mapping[str, Any], artifacts: str | None) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT, artifacts)
        run = self._client.create_run(number, run_name=self._run_dir.absolute().name).info.run_id
        params = [Param(key, text[:PARAM_LENGTH]) for key, text in flat(settings)]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(run, params=params[start:start + PARAMS_AT_ONCE])
        if settings:
            self._client.log_batch(run, tags=[RunTag(*item) for item in lineage(settings).items()])
            self._client.log_artifact(run, str(self._run_dir / "config.yaml"))
        return run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step <= self._last:
            return
        now = int(time.time() * 1000)
        values = {ODD.sub("_", name): float(value) for name, value in metrics.items()} | {STEP: float(step)}
        with _explained():
            self._client.log_batch(self._id, [
                Metric(name, value, now, step) for name, value in values.items() if math.isfinite(value)])
        self._last = step

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        return

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        results = [file for name in RESULTS if (file := self._run_dir / name).is_file()]
        with _explained():
            for file in results:
                self._client.log_artifact(self._id, str(file))
            self._client.set_terminated(self._id, "FINISHED" if results else "KILLED")


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting by its dotted key; what is not text, as JSON."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield ODD.sub("_", prefix + key), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _connect(output_dir: Path, uri: str | None) -> tuple[MlflowClient, str | None]:
    """A client, and where artifacts go (None: where the server puts them)."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return MlflowClient(uri), None
    return MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}"), (output_dir / "mlartifacts").as_uri()


@contextmanager
def _explained() -> Iterator[None]:
    """MLflow's errors as ours. Its addresses may hold passwords: they stay out of the message."""
    try:
        yield
    except MlflowException as error:
        raise MedrlError("MLflow does not take this run", got=error.error_code, remedy=(
            "see that its server or database can be reached and written to; `--resume` continues from the newest "
            "checkpoint, or leave mlflow out of `tracking`")) from None
