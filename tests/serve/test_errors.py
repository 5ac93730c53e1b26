"""Nothing that was asked comes back in an error, and what helps stays."""

from __future__ import annotations

import json
import logging

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from serve.context import RequestContexts
from serve.error_words import safe_place, safe_words
from serve.errors import ErrorScrub, error_response, scrub_events
from tests.identifiers import found_in, planted_identifiers
from tests.serve.clients import ask

SECRET = "Frau Mustermann 13812345678"
VLLM = {"message": f"prompt {SECRET} is bad", "type": "BadRequestError", "param": None, "code": 400}


def app_with(answer: Response | Exception) -> ASGIApp:
    async def endpoint(_request) -> Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return RequestContexts(ErrorScrub(Starlette(routes=[Route("/", endpoint)])))


def error_of(answer: Response | Exception, status: int) -> dict:
    response = ask(app_with(answer), "GET", "/")
    assert response.status_code == status and "Mustermann" not in response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == status
    assert int(response.headers["content-length"]) == len(response.content)
    return error


@pytest.mark.parametrize(("status", "body"), [
    (400, {"error": VLLM}), (400, {"detail": SECRET}), (422, {"detail": [{"input": SECRET}]}), (500, {"error": VLLM}),
    (503, {"error": VLLM}), (404, [SECRET]), (400, {"error": SECRET}), (400, {"error": {"message": [SECRET]}}),
])
def test_an_error_of_any_shape_leaves_in_ours(status: int, body) -> None:
    assert error_of(JSONResponse(body, status, {"X-Debug": SECRET}), status)["message"]


@pytest.mark.parametrize("answer", [
    PlainTextResponse(f"Traceback {SECRET}", 500), Response(b"\xff\xfe" + b"[" * 100_000, 400), Response(b"", 502),
    StreamingResponse(iter([b'{"error": ', json.dumps(VLLM).encode(), b"}"]), 400),
])
def test_whatever_its_encoding(answer: Response) -> None:
    assert error_of(answer, answer.status_code)


def test_an_exception_is_500_and_its_words_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("ray.serve").propagate = True
    assert error_of(RuntimeError(SECRET), 500)["message"] == "internal error"
    assert "Mustermann" not in caplog.text and "RuntimeError" in caplog.text and "in endpoint" in caplog.text


def test_other_headers_do_not_leave_but_retry_after_does() -> None:
    answer = JSONResponse({"error": VLLM}, 503, {"X-Debug": "x", "Retry-After": "3", "Set-Cookie": "a=b"})
    headers = ask(app_with(answer), "GET", "/").headers
    assert headers["retry-after"] == "3" and not {"x-debug", "set-cookie"} & set(headers)


def test_our_own_errors_and_answers_that_are_none_stay_as_they_are() -> None:
    own = ask(app_with(error_response(429, "too many requests", {"Retry-After": "2"}, "n")), "GET", "/")
    assert own.json()["error"]["message"] == "too many requests" and own.json()["error"]["param"] == "n"
    assert own.headers["retry-after"] == "2"
    assert ask(app_with(JSONResponse({"error": VLLM}, 200)), "GET", "/").json() == {"error": VLLM}
    assert ask(app_with(RuntimeError()), "GET", "/none").json()["error"]["code"] == 404
    assert ask(app_with(RuntimeError()), "PUT", "/").headers["allow"] in ("GET, HEAD", "HEAD, GET")


# What vLLM 0.32 says, word for word, and what of it leaves.
CONTEXT = ("This model's maximum context length is 128 tokens. However, your prompt contains at least 129 input "
           "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the prompt. "
           "(parameter=input_tokens, value=129)")


@pytest.mark.parametrize(("message", "param", "said"), [
    (CONTEXT, "input_tokens", CONTEXT.split(",")[0] + ", your prompt contains at least 129 input tokens"),
    ("max_tokens=9999 cannot be greater than max_model_len=max_total_tokens=128.", "max_tokens",
     "the value of max_tokens is not valid"),
    ("max_tokens=9999 cannot be greater than max_model_len=128. Please request fewer output tokens.", "max_tokens",
     "max_tokens=9999 cannot be greater than max_model_len=128"),
    (f"temperature must be in [0, 2], got {SECRET}.", None, "temperature must be in [0, 2]"),
    ("top_p must be in (0, 1], got 2.0. (parameter=top_p, value=2.0)", "top_p", "top_p must be in (0, 1]"),
    ("Stream options can only be defined when `stream=True`. (parameter=stream_options)", "stream_options",
     "Stream options can only be defined when `stream=True`"),
    (f"The model `{SECRET}` does not exist. Valid aliases: medrl.", "model", "the value of model is not valid"),
    (f"1 validation error:\n  {{'type': 'list_type', 'loc': 'body.messages', 'msg': 'Input should be a valid list', "
     f"'input': '{SECRET}'}}", "body.messages", "messages: list_type"),
    (f"2 validation errors:\n  {{'type': 'missing', 'loc': 'body.messages.0.{SECRET}', 'msg': 'Field required', "
     f"'input': '{SECRET}'}}", f"body.messages.0.{SECRET}", "messages.0.…: missing"),
    (f"1 validation error:\n  {{'type': 'value_error', 'loc': 'body', 'msg': 'Value error, {SECRET}'}}", "body",
     "the request is not valid"),
    ("1 validation error:\n  {'type': 'greater_than_equal', 'loc': 'body.n', 'msg': '…', 'input': '-13812345678'}",
     "body.n", "n: greater_than_equal"),
    ("1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed", None,
     "Unsupported Media Type: Only 'application/json' is allowed"),
    (f"JSON decode error: {SECRET}", None, "the request is not valid"),
    (SECRET, SECRET, "the request is not valid"),
])
def test_words_that_help_stay(message: str, param: str | None, said: str) -> None:
    assert safe_words(400, message, param)[0] == said


def test_no_identifier_survives_anywhere_in_any_known_sentence() -> None:
    kept = []
    for text in planted_identifiers():
        for message in (text, f"n must be at least 1, got {text}", f"1 validation error:\n  {{'type': '{text}'",
                        f"1 validation error:\n  {{'type': 'missing', 'input': '{text}'", f"temperature={text}"):
            kept += safe_words(400, message, f"body.messages.0.{text}")
    assert not found_in(str(kept))


def test_places_name_known_fields_only() -> None:
    assert safe_place("body.messages.0.content") == "messages.0.content"
    assert safe_place("body.tools.1.function.parameters.Huang") == "tools.1.function.parameters.…"
    assert safe_place("body.1") is None and safe_place(SECRET) is None


def test_an_error_inside_a_stream() -> None:
    def events():
        yield b'data: {"choices": [{"delta": {"content": "an \\"error\\" here"}}]}\n\n'
        yield b'data: {"type": "response.created", "response": {"error": null, "text": "kept"}}\n\n'
        yield b"data: " + json.dumps({"error": VLLM}).encode() + b"\n\ndata: [DONE]\n\n"

    sent = ask(app_with(StreamingResponse(events(), media_type="text/event-stream")), "GET", "/").text
    first, second, third, done, _ = sent.split("\n\n")
    assert 'an \\"error\\" here' in first and '"text": "kept"' in second and done == "data: [DONE]"
    assert json.loads(third.removeprefix("data: "))["error"]["code"] == 400 and "Mustermann" not in sent


@pytest.mark.parametrize("data", [
    {"type": "error", "error": {"type": "x", "message": SECRET}}, {"type": "error", "code": "x", "message": SECRET},
    {"type": "response.failed", "response": {"id": 1, "error": {"code": "x", "message": SECRET}}},
    {"error": {"message": SECRET, "code": 99999}}, {"error": SECRET},
])
def test_errors_of_other_streams(data: dict) -> None:
    scrubbed = scrub_events(b"event: error\ndata: " + json.dumps(data).encode() + b"\n\n")
    assert scrubbed.startswith(b"event: error\ndata: {") and scrubbed.endswith(b"}\n\n")
    assert b"Mustermann" not in scrubbed and json.loads(scrubbed.split(b"data: ")[1]).get("type") == data.get("type")


def test_a_stream_that_breaks_off_ends_with_an_error_event() -> None:
    def events():
        yield b"data: {}\n\n"
        raise RuntimeError(SECRET)

    sent = ask(app_with(StreamingResponse(events(), media_type="text/event-stream")), "GET", "/").text
    last = json.loads(sent.split("\n\n")[1].removeprefix("data: "))
    assert last["error"] == {"message": "internal error", "type": "internal_server_error", "param": None, "code": 500}
