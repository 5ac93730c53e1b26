"""What a body must be before the app sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.body_limit import BodyLimit
from serve.context import RequestContexts
from serve.errors import ErrorScrub
from tests.serve.clients import ask

LIMIT = 4096


async def _echo(request: Request) -> Response:
    """The body as Python's own parser reads it, which is what vLLM uses."""
    body = await request.body()
    return Response(json.dumps(json.loads(body)) if body else "empty")


app = RequestContexts(ErrorScrub(BodyLimit(Starlette(routes=[Route("/", _echo, methods=["POST"])]), LIMIT / 2**20)))


def post(body: bytes | Iterator[bytes] | AsyncIterator[bytes], **headers: str) -> httpx.Response:
    return ask(app, "POST", "/", content=body, headers=headers)


async def _chunks(size: int) -> AsyncIterator[bytes]:
    yield b'"'
    for _ in range((size - 2) // 10):
        yield b"x" * 10
    yield b"x" * ((size - 2) % 10) + b'"'


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413), (100 * LIMIT, 413)])
def test_size_declared_or_not(size: int, status: int) -> None:
    whole = b'"' + b"x" * (size - 2) + b'"'
    assert post(whole).status_code == status
    assert post(_chunks(size)).status_code == status
    if status == 413:
        assert "max_body_mib 0.00390625" in post(whole).json()["error"]["message"]


def test_of_an_endless_body_no_more_than_the_limit_is_read() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1000
            yield b"x" * 1000

    assert post(endless()).status_code == 413 and taken <= LIMIT + 1000


def test_a_declared_size_is_refused_unread() -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("read")
        yield b""

    assert post(never(), **{"content-length": str(10**9)}).status_code == 413
    assert post(never(), **{"content-length": "9" * 5000}).status_code == 413


@pytest.mark.parametrize("body", [
    b"[" * 202 + b"]" * 202, b"[" * 4000, b'{"a":' * 500, b"\xff\xfe", b'"\xc3"', '"é"'.encode("utf-16"), b'"\\ud800"',
    b"NaN", b"[1e999x]", b"-Infinity", b"{", b"'x'", b"\x00", b'"a" "b"', b"\xef\xbb\xbf{}", b"--boundary\r\n", b"a=b",
])
def test_what_is_not_json_is_400_and_is_not_quoted(body: bytes) -> None:
    response = post(body)
    assert response.status_code == 400 and "boundary" not in response.text
    assert response.json()["error"]["message"].startswith("the body is not valid JSON")


@pytest.mark.parametrize("body", [b"", b"{}", b"[" * 201 + b"]" * 201, '{"字": "é\\u00e9😀"}'.encode(), b"[1e400, 1]"])
def test_what_is_json_reaches_the_app_unchanged(body: bytes) -> None:
    assert post(body).text == (json.dumps(json.loads(body)) if body else "empty")


def test_a_compressed_body_is_415() -> None:
    assert post(b"\x1f\x8b", **{"content-encoding": "gzip"}).status_code == 415
    assert post(b"{}", **{"content-encoding": "identity"}).status_code == 200


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
ENCODED = st.builds(
    lambda value, coding, escaped: json.dumps(value, ensure_ascii=escaped).encode(coding, "ignore"),
    JSON, st.sampled_from(["utf-8", "utf-8", "utf-16", "utf-32", "latin-1", "gb18030"]), st.booleans(),
)


@given(st.binary(max_size=2 * LIMIT) | ENCODED | st.integers(0, 3000).map(lambda depth: b"[" * depth))
def test_any_body_is_read_or_refused_never_500(body: bytes) -> None:
    response = post(body)
    assert response.status_code in (200, 400, 413)
    if response.status_code == 200 and body:
        assert response.json() == json.loads(body)


def test_after_the_body_the_app_hears_that_the_client_has_gone() -> None:
    heard: list[str] = []

    async def listen(_scope, receive, _send) -> None:
        heard.extend([(await receive())["type"], (await receive())["type"]])

    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive():
        return messages.pop()

    async def send(_message) -> None: ...

    asyncio.run(BodyLimit(listen, 1.0)({"type": "http", "headers": []}, receive, send))
    assert heard == ["http.request", "http.disconnect"]
