"""Where checkpoints may be copied to, as the config has it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from medrl.config.common import CheckpointConfig


@pytest.mark.parametrize("storage", [None, "/nfs/runs", "runs/copies", "s3://bucket/runs", "file:///nfs/runs"])
def test_folders_and_urls(storage: str | None) -> None:
    assert CheckpointConfig(storage=storage).storage == storage


@pytest.mark.parametrize("storage", [
    "s3://key:secret@bucket/runs", "simplecache::s3://key:secret@bucket", "https://host/runs?token=secret",
])
def test_what_may_hold_a_secret_is_refused(storage: str) -> None:
    with pytest.raises(ValidationError, match="checkpoint|must"):
        CheckpointConfig(storage=storage)
