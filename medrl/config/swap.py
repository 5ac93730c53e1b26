"""Config of the change from one served version to the next."""

from __future__ import annotations

from pydantic import Field

from medrl.config.base import StrictModel


class SwapConfig(StrictModel):
    """How a running service follows the registry. A swap that keeps to no limit is given up; the old version stays."""

    poll_seconds: float = Field(default=2.0, gt=0, description="seconds between two looks at the registry")
    prepare_seconds: float = Field(
        default=1800.0, gt=0, description="limit on reading and checking a version's files; the old one answers"
    )
    drain_seconds: float = Field(
        default=60.0, gt=0, description="limit on waiting for running answers; new requests wait meanwhile"
    )
    load_seconds: float = Field(default=600.0, gt=0, description="limit on loading the weights; requests wait")
