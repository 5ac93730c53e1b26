"""How much one API key may ask for."""

from __future__ import annotations

from pydantic import Field

from medrl.config.base import StrictModel


class QuotaConfig(StrictModel):
    """What a key may use in a minute, over all replicas; beyond it 429 with Retry-After."""

    requests_per_minute: int | None = Field(default=None, ge=1, description="requests to the model; null: no limit")
    tokens_per_minute: int | None = Field(
        default=None, ge=1, description="tokens of prompts and answers, counted when an answer ends; null: no limit"
    )
