"""From the rows of the sets to what one model has to do for them, and from what it did to what metrics read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medrl.config.evaluate import EvaluateConfig, EvaluationSet
from medrl.data.chat import check_tokenizer, decode_answer, encode_answer, encode_prompt, end_token_ids
from medrl.data.datasets import read_values
from medrl.data.identity import turns
from medrl.data.prompts import prompt_ids
from medrl.errors import DataError
from medrl.evaluation.choice import named_option, with_options
from medrl.evaluation.measured import Answer, Choice, Passage
from medrl.models.loading import load_tokenizer
from medrl.rollout.base import GenerateRequest, request_seed
from medrl.types import Completion, Message, Prompt
from medrl.workers.evaluate import ScoredSequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROW_KINDS = {"text": "texts", "choice": "choices", "reference": "references", "prompts": "prompts", "safety": "safety"}
BY_LOGPROB = {"perplexity", "accuracy", "accuracy_per_token"}  # metrics that need no answer


@dataclass(frozen=True)
class LoadedSet:
    """A set with its rows and what is measured on it."""

    config: EvaluationSet
    rows: list[Any]  # str, ChoiceQuestion, ReferenceQuestion, SafetyCase or messages, by the task
    metrics: list[str]

    @property
    def reads(self) -> bool:
        """Whether log-probs are needed."""
        return bool(BY_LOGPROB & set(self.metrics))

    @property
    def answers(self) -> bool:
        """Whether answers are generated."""
        return bool(set(self.metrics) - BY_LOGPROB)


def load_sets(config: EvaluateConfig) -> list[LoadedSet]:
    """Read every set. Raises DataError with file and line."""
    return [
        LoadedSet(s, read_values(s.path, ROW_KINDS[s.task], s)[: s.max_rows], list(config.metrics_of(s)))
        for s in config.sets
    ]


@dataclass
class Work:
    """What one model has to read and to answer, set by set; results come back in the same order."""

    tokenizer: PreTrainedTokenizerBase
    sequences: dict[str, list[list[ScoredSequence]]] = field(default_factory=dict)  # set → row → its pieces or options
    requests: dict[str, list[GenerateRequest]] = field(default_factory=dict)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer; a model that only reads text needs none."""
        return end_token_ids(self.tokenizer) if self.requests else ()


def encode_work(config: EvaluateConfig, sets: Sequence[LoadedSet]) -> Work:
    """Tokenise all rows for `config.model`. Raises DataError for a row longer than max_length, naming set and row."""
    tokenizer = load_tokenizer(config.model)
    if any(s.config.task != "text" for s in sets):
        check_tokenizer(tokenizer)
    work = Work(tokenizer)
    for chosen in sets:
        name = chosen.config.name
        if chosen.reads:
            work.sequences[name] = [_sequences(tokenizer, row, config.max_length) for row in chosen.rows]
            for number, sequences in enumerate(work.sequences[name], start=1):
                _check_length(name, number, max((len(s.ids) for s in sequences), default=0), config.max_length)
            if not any(work.sequences[name]):
                raise DataError(f"set {name!r}: no token to predict", limit="passages of two tokens or more")
        if chosen.answers:
            work.requests[name] = _requests(config, tokenizer, chosen)
    return work


def _sequences(tokenizer: PreTrainedTokenizerBase, row: Any, length: int) -> list[ScoredSequence]:
    """The pieces of a passage, or a question with each of its options as the answer."""
    if isinstance(row, str):
        ids = tokenizer.encode(row, add_special_tokens=False)
        pieces = [tuple(ids[i : i + length]) for i in range(0, len(ids), length)]
        return [ScoredSequence(piece, 1) for piece in pieces if len(piece) > 1]  # nothing predicts the first
    start = len(encode_prompt(tokenizer, row.messages))
    return [ScoredSequence(tuple(encode_answer(tokenizer, row.messages, o, ended=True)), start) for o in row.options]


def _requests(config: EvaluateConfig, tokenizer: PreTrainedTokenizerBase, chosen: LoadedSet) -> list[GenerateRequest]:
    asked = [_asked(row) for row in chosen.rows]
    requests = []
    for number, (name, messages) in enumerate(zip(prompt_ids(asked), asked, strict=True), start=1):
        ids = tuple(encode_prompt(tokenizer, messages))
        _check_length(chosen.config.name, number, len(ids) + config.sampling.max_tokens, config.max_length)
        requests.append(GenerateRequest(Prompt(name, messages, ids), 0, request_seed(config.seed, 0, name, 0)))
    return requests


def _asked(row: Any) -> tuple[Message, ...]:
    return with_options(row.messages, row.options) if hasattr(row, "options") else turns(row)


def _check_length(name: str, row: int, tokens: int, limit: int) -> None:
    if tokens > limit:
        raise DataError(f"set {name!r}: row {row} is too long", limit=f"max_length {limit} tokens, the answer included",
                        got=f"{tokens} tokens", remedy="raise max_length, lower sampling.max_tokens, or leave it out")


def measured(work: Work, chosen: LoadedSet, logprobs: list[list[float]], completions: list[Completion]) -> list[Any]:
    """Passages, choices or answers, one a row. `logprobs`: row → of each of its sequences; both empty if not needed."""
    name, texts = chosen.config.name, [decode_answer(work.tokenizer, c.ids) for c in completions]
    if chosen.config.task == "text":
        tokens = [sum(len(s.ids) - s.start for s in sequences) for sequences in work.sequences[name]]
        return [Passage(sum(parts), count) for parts, count in zip(logprobs, tokens, strict=True) if count]
    if chosen.config.task == "choice":
        return [
            Choice(
                row.answer, tuple(logprobs[i]) if logprobs else (),
                tuple(len(s.ids) - s.start for s in work.sequences[name][i]) if logprobs else (),
                named_option(texts[i], row.options) if texts else None,
            ) for i, row in enumerate(chosen.rows)
        ]
    return [
        Answer(c.prompt.id, c.prompt.messages, text, c.ids, c.finish == "stop",
               getattr(row, "answers", ()), getattr(row, "rules", ()))
        for row, c, text in zip(chosen.rows, completions, texts, strict=True)
    ]
