"""Errors as JSON, without a word of what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """`{"error": {"message", "type", "param", "code"}}`, the shape OpenAI's clients read."""
    kind = HTTPStatus(status).phrase.lower().replace(" ", "_")
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": status}}, status, headers)
