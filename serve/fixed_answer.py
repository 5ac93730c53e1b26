"""A fixed text in the place of the model's answer, in the shape OpenAI's clients read."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

ROUTES = ("/v1/chat/completions", "/v1/completions", "/invocations")
USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def can_answer(route: str, body: dict[str, Any]) -> bool:
    """Whether the request is for one answer to one conversation or prompt, in a shape that is known here."""
    one = body.get("n") in (None, 1) and (isinstance(body.get("prompt"), str) or isinstance(body.get("messages"), list))
    return one and route in ROUTES


def fixed_answer(body: dict[str, Any], text: str, model: str, request_id: str) -> Response:
    """`text` as the answer to the request with this `body`: chat or completion, streamed or not."""
    chat = "messages" in body
    kind = "chat.completion" if chat else "text_completion"
    head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{request_id}", "object": kind, "created": int(time.time()),
            "model": model}
    if not body.get("stream"):
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": "stop"}
        return JSONResponse(head | {"choices": [choice], "usage": USAGE})
    if chat:
        head["object"] += ".chunk"
    options = body.get("stream_options")
    wants_usage = isinstance(options, dict) and options.get("include_usage")
    return StreamingResponse(_events(head, text, chat, bool(wants_usage)), media_type="text/event-stream")


def _events(head: dict[str, Any], text: str, chat: bool, wants_usage: bool) -> Iterator[str]:
    said = {"delta": {"role": "assistant", "content": text}} if chat else {"text": text}
    ended = {"delta": {}} if chat else {"text": ""}
    chunks = [[{"index": 0, **part, "logprobs": None, "finish_reason": reason}]
              for part, reason in ((said, None), (ended, "stop"))]
    for choices in chunks:
        yield _event(head | {"choices": choices})
    if wants_usage:
        yield _event(head | {"choices": [], "usage": USAGE})
    yield "data: [DONE]\n\n"


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
