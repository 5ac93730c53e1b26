"""vLLM's engine client, with what it answers noted on the way to the request that asked, and kept in the audit."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from medrl.audit.record import SAMPLING, Answer
from medrl.audit.writer import AuditWriter
from medrl.errors import AuditError
from serve.context import CURRENT, RequestContext
from serve.versions import ServedVersion

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, RequestOutput, WeightVersionSpan
    from vllm.sampling_params import SamplingParams

LOG = logging.getLogger(__name__)
BEAM = re.compile(r"-beam-\d+\Z")  # how vLLM's beam search names its steps; our request ids never end so
UNKNOWN = ServedVersion("unknown", "unknown")
MOST_MIXED = 3  # checksums that fit into a label


class WatchedEngine:
    """Everything is the client's own but `generate`, which may be called while a request is answered only.

    A request's context gets the counts of tokens as they come, and the version. With a `writer` every answer becomes
    a record before its last part is handed on: an answer whose record cannot be kept ends in a 503.
    """

    def __init__(self, client: Any, writer: AuditWriter | None) -> None:
        self.client = client
        self._writer = writer
        self.label = ""  # of the weights that are loaded
        self.mixed = 0  # answers from more than one version

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    async def update_weight_version(self, new_version: str) -> None:
        await self.client.update_weight_version(new_version)
        self.label = new_version

    async def finish_weight_update(self, weight_version: str | None = None) -> None:
        await self.client.finish_weight_update(weight_version)
        self.label = weight_version or self.label

    def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """As the client's. Raises VLLMValidationError for a step of a beam search.

        A beam search is a generation for each token, which weights may be swapped between.
        """
        from vllm.exceptions import VLLMValidationError

        if BEAM.search(request_id):
            raise VLLMValidationError("beam search is not served", parameter="use_beam_search")
        outputs = self.client.generate(prompt, sampling_params, request_id, **options)
        return _watched(outputs, Generation(self, CURRENT.get(), prompt, sampling_params))

    def record(self, answer: Answer) -> None:
        """Raises AuditError when the record cannot be kept."""
        if self._writer is not None:
            self._writer.record(answer)

    def version(self, spans: list[WeightVersionSpan] | None) -> ServedVersion:
        """Of the weights that gave an answer; the loaded ones when it ended before anything was said of them."""
        labels = list(dict.fromkeys(span.version for span in spans or ())) or [self.label]
        if len(labels) > 1:
            self.mixed += 1
            LOG.error("an answer comes from %d versions of the weights", len(labels))
        try:
            versions = [ServedVersion.parse(label) for label in labels[:MOST_MIXED]]
        except ValueError:
            return UNKNOWN
        return ServedVersion("+".join(v.number for v in versions), "+".join(v.checksum for v in versions))


class Generation:
    """The `n` answers to one prompt."""

    def __init__(
        self, engine: WatchedEngine, context: RequestContext, prompt: Any, sampling_params: SamplingParams
    ) -> None:
        from vllm.sampling_params import RequestOutputKind

        self.engine, self.context, self.params = engine, context, sampling_params
        self.in_parts = sampling_params.output_kind == RequestOutputKind.DELTA
        self.prompt, self.ids = prompt.get("prompt"), prompt.get("prompt_token_ids") or []
        self.first = context.choices
        self.running = {index: ([], []) for index in range(sampling_params.n)}  # text and tokens so far
        context.choices += sampling_params.n
        context.prompt_tokens += len(self.ids)

    def take(self, output: CompletionOutput) -> None:
        """A new part of an answer; with its last, its record. Raises AuditError."""
        if output.index not in self.running:
            return
        text, tokens = self.running[output.index]
        if self.in_parts:
            self.context.last_token = time.monotonic()
            self.context.first_token = self.context.first_token or self.context.last_token
        else:
            self.context.completion_tokens -= len(tokens)
            text.clear()
            tokens.clear()
        text.append(output.text)
        tokens.extend(output.token_ids)
        self.context.completion_tokens += len(output.token_ids)
        if output.finish_reason:
            self._record(output.index, output.finish_reason, output.weight_versions)

    def end(self, reason: str) -> None:
        """Record the answers that never came to their end, as far as they were handed on."""
        for index in list(self.running):
            try:
                self._record(index, reason, None)
            except AuditError as error:
                LOG.error("an answer that ended early is not in the audit: %s", error)

    def _record(self, index: int, reason: str, spans: list[WeightVersionSpan] | None) -> None:
        text, tokens = self.running.pop(index)
        version = self.engine.version(spans)
        self.context.version = version.number
        settings = {name: getattr(self.params, name, None) for name in SAMPLING} | {"stream": self.in_parts}
        decode = self.engine.get_tokenizer().decode  # where only tokens are exchanged, there is no text
        self.engine.record(Answer(
            request_id=self.context.request_id, time=self.context.received, key_id=self.context.key_id,
            model_version=version.number, weight_checksum=version.checksum,
            sampling={name: value for name, value in settings.items() if value not in (None, [])},
            prompt_tokens=len(self.ids), completion_tokens=len(tokens), finish_reason=reason,
            prompt=decode(self.ids) if self.prompt is None else self.prompt,
            answer="".join(text) if self.params.detokenize else decode(tokens), choice=self.first + index))


async def _watched(
    outputs: AsyncGenerator[RequestOutput, None], generation: Generation
) -> AsyncGenerator[RequestOutput, None]:
    from vllm.exceptions import GracefulHTTPError, VLLMClientError

    reason = "error"
    try:
        async with aclosing(outputs):
            async for output in outputs:
                for choice in output.outputs:
                    generation.take(choice)
                yield output
    except (asyncio.CancelledError, GeneratorExit):
        reason = "abort"
        raise
    except (GracefulHTTPError, VLLMClientError):
        generation.running.clear()  # refused: nothing was asked of the model
        raise
    except AuditError as error:
        LOG.error("an answer is held back: %s", error)
        raise GracefulHTTPError("the answer could not be recorded", HTTPStatus.SERVICE_UNAVAILABLE) from None
    finally:
        generation.end(reason)
