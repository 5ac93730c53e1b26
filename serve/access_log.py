"""One JSON line a request: who asked what when, and how it went. Never text, nor a path that a client made up."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medrl.config.logs import LogsConfig
from serve.context import CURRENT, RequestContext
from serve.scopes import route_label

GONE = 499  # nginx's status for a client that went away
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class JsonLines(logging.Formatter):
    """A record's `fields`, and nothing that was written into its message."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"level": record.levelname.lower(), **record.__dict__["fields"]})


def request_logger(config: LogsConfig) -> logging.Logger:
    """A logger that writes where the config says. A file that is moved away is begun anew (logrotate)."""
    logger = logging.Logger("medrl.requests", config.level.upper())
    if config.file:
        Path(config.file).parent.mkdir(parents=True, exist_ok=True)
        handler: logging.Handler = WatchedFileHandler(config.file, encoding="utf-8")
    else:
        handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    return logger


class AccessLog:
    """ASGI middleware inside RequestContexts: a line when a request has ended, however it did."""

    def __init__(self, app: ASGIApp, logger: logging.Logger) -> None:
        self.app = app
        self.logger = logger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status = time.monotonic(), 500

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except asyncio.CancelledError:
            status = GONE
            raise
        finally:
            fields = _fields(scope, CURRENT.get(), status, time.monotonic() - started)
            level = logging.ERROR if status >= 500 else logging.WARNING if status >= 400 else logging.INFO
            self.logger.log(level, "request", extra={"fields": fields})


def _fields(scope: Scope, context: RequestContext, status: int, seconds: float) -> dict[str, Any]:
    return {
        "time": datetime.fromtimestamp(context.received, UTC).isoformat(timespec="milliseconds"),
        "request_id": context.request_id, "key_id": context.key_id,
        "method": scope["method"] if scope["method"] in METHODS else "other", "route": route_label(scope),
        "status": status, "ms": round(seconds * 1000, 1), "version": context.version,
        "prompt_tokens": context.prompt_tokens, "completion_tokens": context.completion_tokens,
    }
