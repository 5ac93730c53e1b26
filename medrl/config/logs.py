"""What a service logs of its requests."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medrl.config.base import StrictModel


class LogsConfig(StrictModel):
    """A JSON line for each request, with nothing of its text: docs/serving.md."""

    level: Literal["info", "warning", "error"] = Field(
        default="info", description="info: every request; warning: refused and failed ones; error: failed ones"
    )
    file: str | None = Field(
        default=None, description="file that lines are added to, on each replica's machine; null: standard error"
    )
