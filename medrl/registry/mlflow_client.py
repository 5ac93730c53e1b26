"""MLflow, imported when it is needed, with its telemetry off and its errors as ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from medrl.errors import ConfigError, RegistryError


def open_client(uri: str) -> Any:
    """A client of the registry at `uri`."""
    return _mlflow().MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def failing_as_ours() -> Iterator[None]:
    """What MLflow, its database or the disk raises becomes a RegistryError. ConfigError without MLflow."""
    mlflow = _mlflow()
    try:
        yield
    except (mlflow.exceptions.MlflowException, SQLAlchemyError, OSError) as error:
        raise RegistryError(
            "the registry's store failed", got=(str(error).splitlines() or [repr(error)])[0],
            remedy="check that `root` can be written to, and that what `uri` names can be reached") from error


def _mlflow() -> Any:
    # MLflow reads these when it is imported.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    try:
        import mlflow
    except ImportError:
        raise ConfigError("the registry needs MLflow", remedy="pip install 'medrl[mlflow]'") from None
    return mlflow
