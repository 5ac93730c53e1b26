"""What users say of answers, kept as far as they consent, and the preference pairs that come of it."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import BigInteger, Boolean, Column, Connection, MetaData, String, Table, Text, delete, insert, select

from medrl.config.feedback import FeedbackConfig
from medrl.data.convert import new_file
from medrl.data.identity import canonical
from medrl.data.kinds import KINDS
from medrl.data.rows import BadRow
from medrl.database import LABEL, check_exists, exclusive, open_engine
from medrl.errors import DataError
from medrl.types import PreferencePair

LIKES = {"up": 1, "down": -1, "5": 1, "4": 1, "3": 0, "2": -1, "1": -1}
DAY_US = 86_400_000_000

METADATA = MetaData()
FEEDBACK = Table(
    "feedback", METADATA,
    Column("request_id", String(200), primary_key=True),
    Column("time_us", BigInteger, nullable=False, index=True),
    Column("rating", String(4), nullable=False),
    Column("may_train", Boolean, nullable=False),
    Column("texts", Text),  # JSON, all that was written by or for a patient; null unless it may be kept
)


@dataclass(frozen=True)
class Feedback:
    """A rating of one answer. Raises DataError without any of its values."""

    request_id: str
    rating: Literal["up", "down", 1, 2, 3, 4, 5]
    may_keep: bool  # consent: the texts below may be stored
    may_train: bool  # consent: and used for training
    messages: Sequence[dict[str, Any]] = field(default=(), repr=False)  # the conversation that was answered
    answer: str = field(default="", repr=False)
    comment: str = field(default="", repr=False)
    better_answer: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.request_id, str) or not LABEL.fullmatch(self.request_id):
            raise DataError("a feedback's `request_id` must be the id of a request", limit=f"text like {LABEL.pattern}")
        if type(self.rating) not in (str, int) or str(self.rating) not in LIKES:
            raise DataError("a feedback's `rating` cannot be used", limit='"up", "down", or a number from 1 to 5')
        for name in ("may_keep", "may_train"):
            if not isinstance(getattr(self, name), bool):
                raise DataError(f"a feedback's `{name}` must be true or false")
        for name in ("answer", "comment", "better_answer"):
            if not isinstance(getattr(self, name), str):
                raise DataError(f"a feedback's `{name}` must be text")
        if not isinstance(self.messages, list | tuple) or not all(isinstance(turn, dict) for turn in self.messages):
            raise DataError("a feedback's `messages` must be a list of turns")
        if self.may_train and not self.may_keep:
            raise DataError("a feedback's texts cannot be used for training unless they may be kept",
                            remedy="ask for both consents, or set may_train to false")

    def texts(self) -> str | None:
        """All texts as JSON; None unless they may be kept."""
        if not self.may_keep:
            return None
        return json.dumps({"messages": [*self.messages], "answer": self.answer, "comment": self.comment,
                           "better_answer": self.better_answer})


class FeedbackStore:
    """The newest feedback on each request, for as long as the config says."""

    def __init__(self, config: FeedbackConfig) -> None:
        """Connects when first used. Raises ConfigError."""
        self._keep_days = config.keep_days
        self._engine = open_engine(config.url, config.timeout, {"secure_delete": "on"})

    def add(self, feedback: Feedback, now: float) -> None:
        """Keep a feedback in place of an earlier one on the same request, whose consent it may withdraw.

        `now`: seconds since 1970 UTC. Raises DatabaseError.
        """
        with exclusive(self._engine) as connection:
            self._prepare(connection, now)
            connection.execute(delete(FEEDBACK).where(FEEDBACK.c.request_id == feedback.request_id))
            connection.execute(insert(FEEDBACK).values(
                request_id=feedback.request_id, time_us=round(now * 1e6), rating=str(feedback.rating),
                may_train=feedback.may_train, texts=feedback.texts()))

    def for_training(self, now: float) -> list[dict[str, Any]]:
        """`rating` and the texts of every feedback that may be used for training. Raises DatabaseError."""
        check_exists(self._engine)
        with exclusive(self._engine) as connection:
            self._prepare(connection, now)
            rows = connection.execute(select(FEEDBACK.c.rating, FEEDBACK.c.texts).where(FEEDBACK.c.may_train)).all()
        return [{"rating": rating, **json.loads(texts)} for rating, texts in rows]

    def close(self) -> None:
        self._engine.dispose()

    def _prepare(self, connection: Connection, now: float) -> None:
        """Make the table if there is none, and delete what is too old."""
        METADATA.create_all(connection)
        if self._keep_days is not None:
            oldest = round(now * 1e6) - self._keep_days * DAY_US
            connection.execute(delete(FEEDBACK).where(FEEDBACK.c.time_us < oldest))


def run_export(config: FeedbackConfig, out: str) -> None:
    """Write the preference pairs as JSONL that `medrl reward` and `medrl dpo` read.

    Raises DataError if there is none, or if `out` exists already.
    """
    store = FeedbackStore(config)
    rows = store.for_training(time.time())
    store.close()
    pairs, left_out = preference_pairs(rows)
    if not pairs:
        raise DataError("no feedback makes a preference pair", got=f"{len(rows):,} that may be used for training",
                        limit="a better answer, or a liked and a disliked answer to one prompt")
    with new_file(Path(out)) as file:
        file.writelines(json.dumps(canonical(pair), ensure_ascii=False) + "\n" for pair in pairs)
    print(f"{out}: {len(pairs):,} preference pairs from {len(rows):,} feedbacks that may be used for training")
    for why, count in sorted(left_out.items()):
        print(f"{count:,} pairs left out: {why}")


def preference_pairs(rows: Iterable[dict[str, Any]]) -> tuple[list[PreferencePair], Counter[str]]:
    """Every pair once, in an order that does not depend on that of the rows; and why others were left out.

    A better answer goes before the one it corrects, an answer with more likes than dislikes before one with fewer.
    """
    found: set[tuple[str, str, str]] = set()  # prompt as JSON, chosen, rejected
    likes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        prompt, answer = json.dumps(row["messages"], sort_keys=True), row["answer"]
        likes[prompt][answer] += LIKES[row["rating"]]
        if row["better_answer"] not in ("", answer):
            found.add((prompt, row["better_answer"], answer))
    for prompt, answers in likes.items():
        liked, disliked = ([a for a, n in answers.items() if n * sign > 0] for sign in (1, -1))
        found.update(product([prompt], liked, disliked))
    pairs, left_out = [], Counter()
    for prompt, chosen, rejected in sorted(found):
        if (prompt, rejected, chosen) in found:
            left_out["another feedback says the opposite"] += 1
            continue
        try:
            row = {"messages": json.loads(prompt), "chosen": chosen, "rejected": rejected}
            pairs.append(KINDS["pairs"].parse(row))
        except BadRow as problem:
            left_out[problem.why] += 1
    return pairs, left_out
