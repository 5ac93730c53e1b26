"""The parts of a request's body that manners are about, in each of the forms that vLLM's routes take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

SYSTEM = ("system", "developer")


def user_turns(body: dict[str, Any], last: int) -> list[str]:
    """What the user wrote in the `last` turns of each conversation, or in the prompts. Token ids are not read."""
    turns: list[str] = []
    for conversation in _conversations(body):
        said = [_text(turn.get("content")) for turn in conversation if turn.get("role") == "user"]
        turns += said[-last:]
    for name in ("prompt", "input"):
        given = body.get(name)
        turns += [part for part in (given if isinstance(given, list) else [given]) if isinstance(part, str)]
    return turns


def with_system_prompt(body: dict[str, Any], route: str, text: str, replace: bool) -> dict[str, Any]:
    """The body with `text` as its system prompt: when it has none, or in place of its own. Prompts have none."""
    if isinstance(messages := body.get("messages"), list):
        body = body | {"messages": _prompted(messages, text, replace, insert=route != "/v1/messages")}
    if isinstance(given := body.get("input"), list):
        body = body | {"input": _prompted(given, text, replace, insert=False)}
    field = {"/v1/messages": "system", "/v1/responses": "instructions"}.get(route)
    if field and (replace or not (body.get(field) or _has_system(given) or _has_system(messages))):
        body = body | {field: text}
    return body


def _prompted(messages: list[Any], text: str, replace: bool, insert: bool) -> list[Any]:
    """The messages, or several conversations of them, with the system prompt at their start if `insert`."""
    if messages and all(isinstance(message, list) for message in messages):
        return [_prompted(conversation, text, replace, insert) for conversation in messages]
    if replace:
        messages = [message for message in messages if not _has_system([message])]
    if not insert or _has_system(messages):
        return messages
    return [{"role": "system", "content": text}, *messages]


def _conversations(body: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    for name in ("messages", "input"):
        given = body.get(name)
        if isinstance(given, list):
            yield _turns(given)
            yield from map(_turns, given)


def _turns(messages: Any) -> list[dict[str, Any]]:
    return [turn for turn in messages if isinstance(turn, dict)] if isinstance(messages, list) else []


def _has_system(messages: Any) -> bool:
    return any(turn.get("role") in SYSTEM for turn in _turns(messages))


def _text(content: Any) -> str:
    """The words of a turn: text, or a list of parts of which some are text."""
    if isinstance(content, str):
        return content
    parts = (part.get("text") for part in _turns(content))
    return "\n".join(part for part in parts if isinstance(part, str))
