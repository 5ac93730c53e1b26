"""Ids of requests that tell, without anything stored, whose request it was."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from starlette.datastructures import Headers
from starlette.types import Scope

RANDOM, TAG = 24, 16  # hex digits


class RequestIds:
    """Makes ids, and knows its own again: random digits, and a tag over them and the API key of the request.

    Replicas with one `secret` know each other's ids. The tag says nothing of the key to whoever lacks the secret.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def new(self, scope: Scope) -> str:
        """An id for a request."""
        drawn = secrets.token_hex(RANDOM // 2)
        return drawn + self._tag(drawn, scope)

    def same_key(self, request_id: str, scope: Scope) -> bool:
        """Whether `request_id` was made here, for a request with the key that this one has."""
        drawn, tag = request_id[:RANDOM], request_id[RANDOM:]
        return hmac.compare_digest(tag.encode(), self._tag(drawn, scope).encode())

    def _tag(self, drawn: str, scope: Scope) -> str:
        key = Headers(scope=scope).get("authorization", "").partition(" ")[2].strip()
        return hmac.new(self._secret, f"{drawn} {key}".encode(), hashlib.sha256).hexdigest()[:TAG]
