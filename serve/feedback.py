"""POST /v1/feedback: what users say of answers (docs/feedback.md)."""

from __future__ import annotations

import json
import time
from dataclasses import fields
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from medrl.config.feedback import FeedbackConfig
from medrl.errors import DatabaseError, DataError
from medrl.feedback import Feedback, FeedbackStore
from serve.errors import error_response
from serve.request_ids import RequestIds

FIELDS = frozenset(field.name for field in fields(Feedback))
WITHOUT_CONSENT: dict[str, Any] = {"may_keep": False, "may_train": False}


def feedback_routes(config: FeedbackConfig | None, ids: RequestIds) -> list[Route]:
    """The route that keeps feedback, on answers to the same key alone; none without a config."""
    if config is None:
        return []
    store = FeedbackStore(config)

    async def feedback(request: Request) -> Response:
        try:
            given = _parse(await request.body())
        except DataError as error:
            return error_response(400, _words(error))
        if not ids.same_key(given.request_id, request.scope):
            return error_response(404, "this service gave no answer with that `request_id` to this key")
        try:
            await run_in_threadpool(store.add, given, time.time())
        except DatabaseError:
            return error_response(503, "the feedback could not be stored; try again later", {"Retry-After": "10"})
        return JSONResponse({"object": "feedback", "request_id": given.request_id, "texts_kept": given.may_keep})

    return [Route("/v1/feedback", feedback, methods=["POST"])]


def _parse(body: bytes) -> Feedback:
    """Raises DataError, without a word of the body."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise DataError("the body must be JSON") from None
    if not isinstance(values, dict) or not values.keys() <= FIELDS or not {"request_id", "rating"} <= values.keys():
        raise DataError("the body must be an object with `request_id` and `rating`", limit=", ".join(sorted(FIELDS)))
    return Feedback(**WITHOUT_CONSENT | values)


def _words(error: DataError) -> str:
    return "; ".join(filter(None, (error.message, error.limit, error.remedy)))
