"""Where serving keeps what users say of its answers."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from medrl.config.base import StrictModel


class FeedbackConfig(StrictModel):
    """Ratings and better answers: docs/feedback.md."""

    url: str = Field(
        default="sqlite:///runs/feedback/feedback.db",
        description="sqlite:///folder/file.db or postgresql://user@host/name (password: PGPASSWORD or ~/.pgpass)",
    )
    keep_days: int | None = Field(default=365, ge=1, description="days until a feedback is deleted; null: never")
    timeout: float = Field(default=10.0, gt=0, description="seconds to wait for the database")


class FeedbackSection(StrictModel):
    """The feedback's section of a serving config; the other sections may hold anything."""

    model_config = ConfigDict(extra="ignore")

    feedback: FeedbackConfig = FeedbackConfig()
