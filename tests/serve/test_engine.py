"""What the watched engine keeps of answers that end, break off and fail. The engine is played; its types are vLLM's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from medrl.audit.record import Answer
from medrl.errors import AuditError
from serve.context import CURRENT, RequestContext
from serve.engine import WatchedEngine

pytestmark = pytest.mark.vllm
OLD, NEW = "1@" + "a" * 64, "2@" + "b" * 64
PROMPT = {"type": "token", "prompt": "How are you?", "prompt_token_ids": [5, 6, 7]}


class PlayedClient:
    """Says the parts of its script: (choice, text, tokens, finish reason, spans), or an exception to raise."""

    def __init__(self, script: list[Any]) -> None:
        self.script = script
        self.closed = False

    async def update_weight_version(self, label: str) -> None:
        pass

    def get_tokenizer(self) -> Any:
        class Tokenizer:
            decode = staticmethod(lambda ids: " ".join(map(str, ids)))

        return Tokenizer()

    async def generate(self, prompt: Any, params: Any, request_id: str, **options: Any) -> AsyncGenerator[Any, None]:
        from vllm.outputs import CompletionOutput, RequestOutput

        try:
            for number, step in enumerate(self.script):
                if isinstance(step, Exception):
                    raise step
                index, text, tokens, reason, spans = step
                await asyncio.sleep(0)
                part = CompletionOutput(index, text, tokens, None, None, finish_reason=reason, weight_versions=spans)
                last = number == len(self.script) - 1
                yield RequestOutput(request_id, None, prompt["prompt_token_ids"], None, [part], last)
        finally:
            self.closed = True


class Records(list[Answer]):
    """In place of a writer."""

    def record(self, answer: Answer) -> None:
        self.append(answer)


class Full:
    """A writer that nothing takes records from."""

    def record(self, answer: Answer) -> None:
        raise AuditError("an audit record is lost")


def spans(*labels: str) -> list[Any]:
    from vllm.outputs import WeightVersionSpan

    return [WeightVersionSpan(label, i, i + 1) for i, label in enumerate(labels)]


def params(**settings: Any) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    kind = RequestOutputKind.DELTA if settings.pop("stream", True) else RequestOutputKind.FINAL_ONLY
    return SamplingParams(output_kind=kind, **settings)


async def ask(
    script: list[Any], sampling: Any, writer: Any, limit: int = 99, prompt: dict[str, Any] = PROMPT,
    request_id: str = "cmpl-x-0",
) -> tuple[RequestContext, WatchedEngine, PlayedClient]:
    """Read `limit` parts of an answer as a handler does, then go away."""
    context = RequestContext(request_id="r", received=12.5, key_id="ward")
    CURRENT.set(context)
    client = PlayedClient(script)
    engine = WatchedEngine(client, writer)
    await engine.update_weight_version(OLD)
    answers = engine.generate(prompt, sampling, request_id)
    try:
        if limit:
            async for _ in answers:
                limit -= 1
                if not limit:
                    break
    finally:
        await answers.aclose()
    return context, engine, client


def test_each_answer_of_a_stream_is_one_record() -> None:
    script = [(0, "Fi", [1], None, None), (1, "So", [2], None, None), (1, " so", [3, 4], "length", spans(OLD)),
              (0, "ne", [8], "stop", spans(OLD))]
    records = Records()
    context, engine, _ = asyncio.run(ask(script, params(n=2, temperature=0.5, stop=["Anna"]), records))
    assert [(r.choice, r.answer, r.completion_tokens, r.finish_reason) for r in records] == [
        (1, "So so", 3, "length"), (0, "Fine", 2, "stop")]
    first = records[0]
    assert (first.request_id, first.key_id, first.time, first.prompt) == ("r", "ward", 12.5, "How are you?")
    assert (first.model_version, first.weight_checksum, first.prompt_tokens) == ("1", "a" * 64, 3)
    assert first.sampling["temperature"] == 0.5 and first.sampling["stream"] is True and first.sampling["n"] == 2
    assert (context.prompt_tokens, context.completion_tokens, context.version) == (3, 5, "1")
    assert engine.mixed == 0


def test_a_whole_answer_is_one_record_with_its_last_state() -> None:
    records = Records()
    script = [(0, "Fi", [1], None, None), (0, "Fine", [1, 8], "stop", spans(NEW))]
    context, _, _ = asyncio.run(ask(script, params(stream=False), records))
    assert [(r.answer, r.completion_tokens, r.weight_checksum) for r in records] == [("Fine", 2, "b" * 64)]
    assert context.completion_tokens == 2


def test_tokens_for_tokens_are_recorded_as_what_they_say() -> None:
    records = Records()
    only_ids = {"type": "token", "prompt_token_ids": [5, 6, 7]}
    script = [(0, "", [1, 8], "stop", spans(OLD))]
    asyncio.run(ask(script, params(detokenize=False), records, prompt=only_ids))
    assert (records[0].prompt, records[0].answer) == ("5 6 7", "1 8")


def test_several_prompts_are_numbered_on() -> None:
    async def ask_twice() -> Records:
        records = Records()
        CURRENT.set(RequestContext(request_id="r"))
        script = [(0, "a", [1], "stop", spans(OLD)), (1, "b", [1], "stop", spans(OLD))]
        engine = WatchedEngine(PlayedClient(script), records)  # pyright: ignore[reportArgumentType]
        for answers in [engine.generate(PROMPT, params(n=2), f"cmpl-x-{i}") for i in range(2)]:
            async for _ in answers:
                pass
        return records

    assert [record.choice for record in asyncio.run(ask_twice())] == [0, 1, 2, 3]


def test_a_client_that_goes_away_leaves_a_record_of_what_it_got() -> None:
    records = Records()
    script = [(0, "Fi", [1], None, None), (0, "ne", [8], "stop", spans(OLD))]
    _, _, client = asyncio.run(ask(script, params(n=2), records, limit=1))
    assert [(r.choice, r.answer, r.finish_reason, r.weight_checksum) for r in records] == [
        (0, "Fi", "abort", "a" * 64), (1, "", "abort", "a" * 64)]
    assert client.closed


def test_a_failure_is_recorded_and_a_refusal_is_not() -> None:
    from vllm.exceptions import VLLMValidationError

    records = Records()
    with pytest.raises(RuntimeError):
        asyncio.run(ask([(0, "Fi", [1], None, None), RuntimeError()], params(), records))
    assert [(r.answer, r.finish_reason) for r in records] == [("Fi", "error")]
    with pytest.raises(VLLMValidationError):
        asyncio.run(ask([VLLMValidationError("too long")], params(), records))
    assert len(records) == 1


def test_an_answer_from_two_versions_is_recorded_as_one_and_counted() -> None:
    records = Records()
    _, engine, _ = asyncio.run(ask([(0, "Fine", [1, 8], "stop", spans(OLD, NEW))], params(), records))
    assert (records[0].model_version, records[0].weight_checksum) == ("1+2", "a" * 64 + "+" + "b" * 64)
    assert engine.mixed == 1


def test_weights_that_nobody_named_are_unknown() -> None:
    records = Records()
    asyncio.run(ask([(0, "Fine", [1], "stop", spans("default"))], params(), records))
    assert (records[0].model_version, records[0].weight_checksum) == ("unknown", "unknown")


def test_an_answer_that_cannot_be_recorded_does_not_go_out() -> None:
    from vllm.exceptions import GracefulHTTPError

    with pytest.raises(GracefulHTTPError) as error:
        asyncio.run(ask([(0, "Fine", [1], "stop", spans(OLD))], params(stream=False), Full()))
    assert error.value.http_status == 503


def test_beam_search_is_refused() -> None:
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match="beam search"):
        asyncio.run(ask([], params(), Records(), request_id="cmpl-0af-beam-3"))


def test_nothing_is_generated_outside_of_a_request() -> None:
    async def generate() -> None:
        WatchedEngine(PlayedClient([]), None).generate(PROMPT, params(), "x")

    with pytest.raises(LookupError):
        asyncio.run(generate())
