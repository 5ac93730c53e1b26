"""From conversations to token ids and back, through the model's own chat template.

Text is tokenised in pieces cut where an answer starts and ends. A prompt is therefore always a token prefix of the
conversation it begins, as it is when the model generates: no token merges over the border.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from medrl.data.templates import NAMES
from medrl.errors import ConfigError, DataError
from medrl.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ConfigError unless there are a chat template, an end token and a padding token that differs from it."""
    _require_template(tokenizer)
    if tokenizer.eos_token_id is None:
        raise ConfigError("the tokenizer has no eos_token", remedy="set eos_token in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        raise ConfigError(
            "the tokenizer has no pad_token", remedy="set pad_token in tokenizer_config.json to a token of its own"
        )
    if tokenizer.pad_token_id in end_token_ids(tokenizer):
        raise ConfigError(
            "the tokenizer's pad_token also ends answers: the model could not learn to stop",
            got=f"pad_token_id {tokenizer.pad_token_id}, end tokens {end_token_ids(tokenizer)}",
            remedy="set pad_token in tokenizer_config.json to a token that is used for nothing else",
        )


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of the conversation with the assistant header after it: what the model continues."""
    return _encode_turns(tokenizer, messages, header=True)[0]


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()
) -> tuple[list[int], list[int]]:
    """Token ids [T] and mask [T], 1 on what the assistant has to produce: each answer and the token that ends it.

    `tools` are described where the template takes them.

    Raises ConfigError if the template writes the turns before an answer differently once the answer is there, or
    rewrites the answer, or does not end it: the mask would be wrong.
    """
    return _encode_turns(tokenizer, messages, header=False, tools=tools)


def encode_answer(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str, ended: bool
) -> list[int]:
    """Token ids of prompt and answer, with the end token if the answer `ended`: what a reward model reads."""
    return encode_prompt(tokenizer, messages) + encode_reply(tokenizer, answer, ended)


def encode_reply(tokenizer: PreTrainedTokenizerBase, answer: str, ended: bool) -> list[int]:
    """Token ids of an answer alone, with the end token if it `ended`."""
    return _encode(tokenizer, answer) + ([end_token_ids(tokenizer)[0]] if ended else [])


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of a generated answer up to its end token, without special tokens."""
    ends = set(end_token_ids(tokenizer))
    length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return str(tokenizer.decode(list(ids[:length]), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def end_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end an answer: the one the chat template writes, then the tokenizer's eos_token if it is another."""
    tokens = [_end_token(tokenizer), tokenizer.eos_token]
    return tuple(dict.fromkeys(_token_id(tokenizer, str(token)) for token in tokens if token is not None))


def _token_id(tokenizer, token: str) -> int:
    return tokenizer.convert_tokens_to_ids(token)


def _end_token(tokenizer) -> str:
    """The special token that the template writes after the last answer."""
    messages = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": "An answer."}]
    text = _render(tokenizer, messages, header=False)
    end = _end_after(_specials(tokenizer), text, text.rfind("An answer."), "An answer.")
    return end[0]


def _encode_turns(
    tokenizer, messages: Sequence[Message], *, header: bool, tools: Sequence[dict[str, Any]] = ()
) -> tuple[list[int], list[int]]:
    """Token ids of the rendered turns and the mask over the answers among them."""
    text = _render(tokenizer, messages, header=header, tools=tools)
    specials = _specials(tokenizer)
    ids: list[int] = []
    mask: list[int] = []
    position = 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, messages[:index], header=True, tools=tools)
        if len(before) < position or not text.startswith(before):
            raise ConfigError(
                f"the chat template is not prefix-stable: it writes the turns before turn {index} differently "
                "once the answer is there",
                remedy="use a template that writes a turn the same way whatever follows it",
            )
        answer = message["content"].strip()
        stop = _end_after(specials, text, text.find(answer, len(before)), answer).end()
        for piece, bit in ((text[position : len(before)], 0), (text[len(before) : stop], 1)):
            tokens = _encode(tokenizer, piece)
            ids += tokens
            mask += [bit] * len(tokens)
        position = stop
    tail = _encode(tokenizer, text[position:])
    return ids + tail, mask + [0] * len(tail)


def _end_after(specials: re.Pattern[str], text: str, start: int, answer: str) -> re.Match[str]:
    """The special token that follows `answer`, which stands at text[start:]; only white space may lie between."""
    if start < 0:
        raise ConfigError("the chat template rewrites answers", remedy="use a template that writes answers as they are")
    end = specials.search(text, start + len(answer))
    if end is None or text[start + len(answer) : end.start()].strip():
        raise ConfigError(
            "the chat template writes no special token after an answer: the model could not learn to stop",
            remedy="use a template that ends answers with eos_token (alpaca, mistral and vicuna do), or add the "
            "template's own tokens to the tokenizer as special ones",
        )
    return end


def _specials(tokenizer) -> re.Pattern[str]:
    """Matches the text of any special token."""
    tokens = {str(token) for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))


def _render(tokenizer, messages: Sequence[Message], *, header: bool, tools: Sequence[dict[str, Any]] = ()) -> str:
    _require_template(tokenizer)
    try:
        return tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, tokenize=False, add_generation_prompt=header
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            "the model's chat template refuses a conversation", limit=str(error), got=f"turns: {roles}"
        ) from None


def _encode(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False) if text else []


def _require_template(tokenizer) -> None:
    if not tokenizer.chat_template:
        raise ConfigError(
            "the tokenizer has no chat template",
            remedy=f"set model.chat_template to {', '.join(NAMES)}, or to the path of a .jinja file",
        )
