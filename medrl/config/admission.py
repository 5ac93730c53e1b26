"""How many requests a replica of a service takes on."""

from __future__ import annotations

from pydantic import Field

from medrl.config.base import StrictModel


class AdmissionConfig(StrictModel):
    """Requests that ask the model, of one replica; more get 503 with Retry-After."""

    max_running: int = Field(default=128, ge=1, description="answered at once")
    max_queued: int = Field(default=256, ge=0, description="waiting for that, in the order they came")
    queue_seconds: float = Field(default=30.0, gt=0, description="longest wait; then 503")
