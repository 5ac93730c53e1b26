"""MLflow, imported when it is needed, with its telemetry off and its errors as ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medrl.errors import ConfigError, RegistryError


def open_client(uri: str) -> Any:
    """A client of the registry at `uri`. Raises ConfigError without MLflow, RegistryError when it does not answer."""
    # MLflow reads these when it is imported.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise ConfigError("the registry needs MLflow", remedy="pip install 'medrl[mlflow]'") from None
    with failing_as_ours():
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def failing_as_ours() -> Iterator[None]:
    """What MLflow or its database raises becomes a RegistryError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        raise RegistryError("the registry's store failed", got=str(error).splitlines()[0],
                            remedy="check `uri`, and that its server or database can be reached") from error
