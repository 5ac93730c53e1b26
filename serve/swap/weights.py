"""The weights of a replica's engine: replaced, labelled, and tried out."""

from __future__ import annotations

import asyncio
import math
import uuid

from medrl.errors import ModelError
from serve.engine import WatchedEngine
from serve.swap.messages import Target
from serve.versions import ServedVersion

PROBE_TOKENS = 16
STEP = 7919  # a prime: the probe's ids are spread over the vocabulary


class Weights:
    """Of an engine that is idle while its weights are changed."""

    def __init__(self, engine: WatchedEngine) -> None:
        self.engine = engine

    async def load(self, target: Target, limit: float) -> tuple[float, ...]:
        """Replace the weights, and the cache of keys and values with them. Returns the `probe`.

        Raises ModelError when the engine does not answer as it should, whatever the engine raises, and TimeoutError
        when it still works after `limit` seconds. Then the weights are neither the old nor the new ones.
        """
        await asyncio.wait_for(self.engine.pause_generation(mode="wait"), limit)
        await self.engine.collective_rpc("load_version", args=(target.path,))
        await self.engine.resume_generation()
        return await self.name(target.version)

    async def name(self, version: ServedVersion) -> tuple[float, ...]:
        """Label the weights that are loaded, and try them out: log-probs of a fixed text. Raises ModelError."""
        await self.engine.update_weight_version(version.label)
        return await self.probe(version)

    async def probe(self, version: ServedVersion) -> tuple[float, ...]:
        """Log-probs of a fixed text. ModelError when they are no numbers, or the engine gives another version."""
        from vllm import SamplingParams, TokensPrompt

        config = self.engine.model_config
        ids = [i * STEP % config.get_vocab_size() for i in range(1, min(PROBE_TOKENS, config.max_model_len - 1) + 1)]
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        final = None
        prompt = TokensPrompt(prompt_token_ids=ids)
        async for output in self.engine.client.generate(prompt, params, f"probe-{uuid.uuid4()}"):  # nobody's request
            final = output
        assert final and final.prompt_logprobs and final.outputs[0].weight_versions
        labels = [span.version for span in final.outputs[0].weight_versions]
        entries = zip(ids[1:], final.prompt_logprobs[1:], strict=True)
        values = tuple(entry[token].logprob for token, entry in entries if entry)
        if labels != [version.label] or not all(map(math.isfinite, values)):
            raise ModelError(f"the engine does not answer with version {version.number}",
                             limit="finite log-probs, of that version", got=f"{values[:3]} of {labels}")
        return values
