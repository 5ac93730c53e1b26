"""From rows in any of the common formats to medrl's types. A row that cannot be used is a BadRow that says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from medrl.data.rows import BadRow, kind_of_value
from medrl.types import Conversation, Message, PreferencePair

Messages = tuple[Message, ...]
Row = dict[str, Any]

ROLES = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "function_call": "assistant", "tool": "tool", "observation": "tool",
}
SYSTEM_KEYS = ("system", "system_prompt")
ANSWER_PAIRS = (("response_chosen", "response_rejected"), ("chosen", "rejected"))


class Format(NamedTuple):
    """How a row holds a conversation: `turns` reads it up to the answer, which stands under one of `answers`.

    Without `answers`, the answer is the last of the turns.
    """

    name: str
    turns: Callable[[Row], Messages]
    answers: tuple[str, ...] = ()


def format_name(row: Row) -> str:
    """The name of the format of a row that was parsed: "ShareGPT"."""
    return next((form.name for key, form in FORMATS.items() if key in row), "plain")


def parse_passage(row: Row) -> str:
    return text_of(row, "text")


def parse_conversation(row: Row) -> Conversation:
    """Turns that end with the assistant's, and the tools it may call."""
    form = FORMATS[_one_of(row, *FORMATS)]
    if form.answers:
        context, answer = _reply(row, _one_of(row, *form.answers))
        messages = (*_with_system(row, context or form.turns(row)), {"role": "assistant", "content": answer})
    else:
        messages = _with_system(row, form.turns(row))
    return Conversation(_ending_with(("assistant",), messages), _tools(row))


def parse_prompt(row: Row) -> Messages:
    """Turns that wait for the assistant's; an answer that the row has beside them is not read."""
    return _ending_with(("user", "tool"), _context(row))


def parse_pair(row: Row) -> PreferencePair:
    """A prompt with two answers. Answers that are whole conversations bring the prompt along."""
    keys = next(pair for pair in ANSWER_PAIRS if pair == ANSWER_PAIRS[-1] or any(key in row for key in pair))
    (context, chosen), (other, rejected) = (_reply(row, key) for key in keys)
    if context != other:
        raise BadRow(f"`{keys[0]}` and `{keys[1]}` answer different prompts")
    if chosen == rejected:
        raise BadRow(f"`{keys[0]}` and `{keys[1]}` are the same",
                     "remove the row: it says nothing about which is better")
    messages = _with_system(row, context) if context else _context(row)
    return PreferencePair(_ending_with(("user", "tool"), messages), chosen, rejected)


def _context(row: Row) -> Messages:
    return _with_system(row, FORMATS[_one_of(row, *FORMATS)].turns(row))


def _with_system(row: Row, messages: Messages) -> Messages:
    """The system prompt that stands beside the turns goes first, unless they have one of their own."""
    system = _optional_text(row, *SYSTEM_KEYS)
    if system and all(message["role"] != "system" for message in messages):
        return ({"role": "system", "content": system}, *messages)
    return messages


def _reply(row: Row, key: str) -> tuple[Messages, str]:
    """(turns before it, answer) of an answer that is a string, one turn, or turns that end with the assistant's."""
    value = row.get(key)
    if not isinstance(value, (list, dict)):
        return (), text_of(row, key)
    *before, last = _turns([value] if isinstance(value, dict) else value, key)
    if last["role"] != "assistant":
        raise BadRow(f"the last turn of `{key}` must be the assistant's, but is the {last['role']}'s")
    if before and before[0]["role"] == "assistant":
        raise BadRow(f"`{key}` must be one answer, or begin with the prompt")
    return tuple(before), last["content"]


def _turns(turns: object, key: str) -> Messages:
    if not isinstance(turns, list) or not turns:
        raise BadRow(f"`{key}` must be a list of turns that is not empty, got {kind_of_value(turns)}")
    return tuple(_turn(turn, f"{key}[{i}]") for i, turn in enumerate(turns))


def _turn(turn: object, where: str) -> Message:
    if not isinstance(turn, dict):
        raise BadRow(f"`{where}` must be an object, got {kind_of_value(turn)}")
    role_key, text_key = ("from", "value") if "from" in turn else ("role", "content")
    role = turn.get(role_key)
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow(f"`{where}.{role_key}` is not a known role", f"use one of {', '.join(ROLES)}")
    if turn.get("tool_calls"):
        raise BadRow(f"`{where}.tool_calls` is not read", "write the call as text into the turn's content")
    return {"role": ROLES[role], "content": text_of(turn, text_key, where)}


def text_of(row: Row, key: str, where: str = "") -> str:
    name = f"{where}.{key}" if where else key
    if key not in row:
        raise BadRow(f"`{name}` is missing")
    text = row[key]
    if not isinstance(text, str):
        raise BadRow(f"`{name}` must be a string, got {kind_of_value(text)}")
    if not text.strip():
        raise BadRow(f"`{name}` is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow(f"`{name}` holds half of a surrogate pair (a \\ud800 … \\udfff escape on its own)") from None
    return text


def _optional_text(row: Row, *keys: str) -> str:
    """The first of the keys that has text; empty where none has."""
    for key in keys:
        if (value := row.get(key)) is not None and not (isinstance(value, str) and not value.strip()):
            return text_of(row, key)
    return ""


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _history(row: Row) -> Messages:
    """Earlier turns as [question, answer] pairs."""
    history = row.get("history") or []
    if not isinstance(history, list):
        raise BadRow(f"`history` must be a list of [question, answer] pairs, got {kind_of_value(history)}")
    turns: list[Message] = []
    for i, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(f"`history[{i}]` must be a [question, answer] pair")
        question, answer = (text_of({str(j): text}, str(j), f"history[{i}]") for j, text in enumerate(pair))
        turns += [_user(question), {"role": "assistant", "content": answer}]
    return tuple(turns)


def _alpaca(row: Row) -> Messages:
    instruction, more = text_of(row, "instruction"), _optional_text(row, "input")
    return (*_history(row), _user(f"{instruction}\n{more}" if more else instruction))


def _question(row: Row) -> Messages:
    return (*_history(row), _user(text_of(row, "question")))


def _plain(row: Row) -> Messages:
    if isinstance(row["prompt"], list):
        return _turns(row["prompt"], "prompt")
    return (*_history(row), _user(text_of(row, "prompt")))


def _tools(row: Row) -> tuple[Row, ...]:
    """Descriptions of tools: a list of objects, or the same as JSON text."""
    tools = row.get("tools") or []
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            raise BadRow("`tools` is not valid JSON") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("`tools` must be a list of objects, or such a list as JSON text")
    return tuple(tools)


def _ending_with(roles: tuple[str, ...], messages: Messages) -> Messages:
    last = messages[-1]["role"]
    if last not in roles:
        raise BadRow(f"the last turn must be the {roles[0]}'s, but is the {last}'s")
    if not any(message["role"] == "user" for message in messages):
        raise BadRow("there is no user turn")
    return messages


def _one_of(row: Row, *keys: str) -> str:
    found = [key for key in keys if key in row]
    if not found and len(keys) == 1:
        raise BadRow(f"`{keys[0]}` is missing")
    if len(found) != 1:
        names = ", ".join(f"`{key}`" for key in keys)
        raise BadRow(f"exactly one of {names} is needed, got {' and '.join(found) or 'none'}")
    return found[0]


FORMATS = {  # the key that gives a format away
    "messages": Format("OpenAI", lambda row: _turns(row["messages"], "messages")),
    "conversations": Format("ShareGPT", lambda row: _turns(row["conversations"], "conversations")),
    "instruction": Format("Alpaca", _alpaca, ("output",)),
    "question": Format("question/answer", _question, ("answer",)),
    "prompt": Format("plain", _plain, ("response", "completion", "answer")),
}
