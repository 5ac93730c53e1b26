"""Which words of vLLM's errors may leave the service: an allow-list, for the rest may quote the prompt."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import get_args

from pydantic_core.core_schema import ErrorType

# Fields of requests, and of what is in them: the parts of a place that are named. Others may be a patient's words.
FIELDS = frozenset("""
    add_generation_prompt allowed_token_ids arguments background bad_words best_of cache_salt chat_template
    chat_template_kwargs content continue_final_message detokenize documents echo effort frequency_penalty function id
    ignore_eos image_url include_usage input instructions items json_schema kv_transfer_params label_token_ids
    length_penalty logit_bias logprobs max_completion_tokens max_output_tokens max_tokens messages metadata min_p
    min_tokens model n name parallel_tool_calls parameters presence_penalty previous_response_id priority prompt
    prompt_logprobs query reasoning reasoning_effort repetition_penalty response_format role schema seed
    skip_special_tokens stop stop_token_ids store stream stream_options strict structured_outputs suffix system
    temperature text token_ids tokens tool_call_id tool_calls tool_choice tools top_k top_logprobs top_p
    truncate_prompt_tokens type url use_beam_search user
""".split())
FIELD = f"(?:{'|'.join(sorted(FIELDS, key=len, reverse=True))})"
NUMBER = r"-?\d{1,9}(?:\.\d{1,3})?"
RANGE = rf"[\[(]{NUMBER}, {NUMBER}[\])]"
# The start of a message that one of these matches is kept, and nothing after it.
SENTENCES = tuple(re.compile(pattern) for pattern in (
    rf"This model's maximum context length is {NUMBER} tokens\. However, your prompt contains (?:at least )?{NUMBER} "
    r"(?:input tokens|characters)",
    rf"(?:max_tokens|max_completion_tokens|max_output_tokens)={NUMBER} cannot be greater than max_model_len={NUMBER}",
    rf"Requested (?:sample|prompt) logprobs of {NUMBER}, which is greater than max allowed: {NUMBER}",
    rf"`?{FIELD}`? must be (?:in {RANGE}|at (?:least|most) {NUMBER}|a finite number|an integer|an int|non-negative"
    rf"(?: or -1)?|greater than zero|greater than or equal to 0|0 \(disable\), or at least 1|a positive value or -1|"
    r"less than or equal to max_tokens|1 when using greedy sampling)",
    rf"`?{FIELD}`? cannot contain an empty string",
    r"Stream options can only be defined when `stream=True`",
    r"`prompt_logprobs` are not available when `stream=True`",
    r"[Ww]hen using `(?:top_logprobs|logprob_token_ids)`, `logprobs` must be set(?: to true)?",
    r"When using `tool_choice`, `tools` must be set",
    r"The tool specified in `tool_choice` does not match any of the specified `tools`",
    r"`tools` must not be an empty array",
    r"Invalid value for `tool_choice`",
    r'"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
    r"You can only use one kind of constraints for structured outputs",
    r"You can only either use constraints for structured outputs or tools, not both",
    r"When response_format type is 'json_schema', the 'json_schema' field must be provided",
    r"Invalid JSON grammar specification",
    r"Invalid grammar specification",
    r"The provided JSON schema contains features not supported by xgrammar",
    rf"The JSON schema is nested too deeply: objects and arrays may nest at most {NUMBER} levels",
    r"Cannot set both `continue_final_message` and `add_generation_prompt` to True",
    r"Chat template is passed with request, but --trust-request-chat-template is not set",
    r"Batch chat completions do not support (?:`n > 1`|beam search)",
    r"Either prompt or prompt_embeds must be provided and non-empty",
    r"The decoder prompt cannot be empty",
    r"Echo is unsupported with suffix",
    r"suffix is only supported for models with FIM completion rendering",
    r"Unsupported Media Type: Only 'application/json' is allowed",
    r"The engine (?:is currently busy and cannot accept new requests|has reached its prefill token backlog limit)",
))
PYDANTIC_TYPES = {*get_args(ErrorType)} - {"value_error"}  # the last one says nothing
STATUS_WORDS = {
    400: "the request is not valid", 404: "there is no such route, model or response", 500: "internal error",
    503: "the service cannot answer now; try again",
}
PYDANTIC = re.compile(r"(\d{1,6}) validation errors?:\n  (?:\{'type': '([a-z_]{1,40})', |)")


def safe_words(status: int, message: str, param: str | None) -> tuple[str, str | None]:
    """What may be said in place of an error's message and parameter."""
    place = safe_place(param) if param else None
    if found := PYDANTIC.match(message):
        if found[2] in PYDANTIC_TYPES:
            return f"{place or 'body'}: {found[2]}", place
        message = message[found.end():]
    for sentence in SENTENCES:
        if kept := sentence.match(message):
            return kept[0], place
    default = STATUS_WORDS.get(status) or HTTPStatus(status).phrase.lower()
    return (f"the value of {place} is not valid" if place and status in (400, 422) else default), place


def safe_place(param: str) -> str | None:
    """A dotted place in a request's body; of its parts only those that are numbers or fields we know."""
    parts = param.removeprefix("body.").split(".")[:8]
    known = [part if part in FIELDS or re.fullmatch(r"\d{1,6}", part) else "…" for part in parts]
    return ".".join(known) if any(part in FIELDS for part in parts) else None
