"""What the conductor and the replicas tell each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from medrl.registry.record import Version
from serve.versions import ServedVersion

TOLERANCE = 0.2  # nats


@dataclass(frozen=True)
class Target:
    """A registered version to be served. Two are equal when number and weights are."""

    version: ServedVersion
    registered: Version = field(compare=False)

    @classmethod
    def of(cls, registered: Version) -> Target:
        return cls(ServedVersion(str(registered.number), registered.checksum), registered)

    @property
    def path(self) -> str:
        return str(self.registered.path)


class Action(StrEnum):
    """What a replica is to do about a target."""

    SERVE = "serve"  # have its weights (load them if need be) and answer
    PREPARE = "prepare"  # go on answering, and find out whether it can be loaded
    LOAD = "load"  # finish the running answers, hold new requests, load it


@dataclass(frozen=True)
class Order:
    """The conductor's word to one replica. Later orders have larger numbers, after the conductor's restart too."""

    number: int
    action: Action
    target: Target


@dataclass(frozen=True)
class Report:
    """A replica's word to the conductor, always between two orders, never within one.

    `loaded`: the engine's weights (None: a load has failed half-way); `serving`: answers with them now; `served`: what
    it answered with last (None: it never has); `done`: number of the last order it has carried out or failed at (0:
    none yet); `failure`: why it failed at that; `probe`: log-probs of a fixed text under `loaded`.
    """

    loaded: Target | None
    serving: bool = False
    served: Target | None = None
    done: int = 0
    failure: str | None = None
    probe: tuple[float, ...] = ()


def agree(probes: Sequence[tuple[float, ...]]) -> bool:
    """Whether the probes come from the same weights, as far as they can tell."""
    return all(
        len(probe) == len(probes[0]) and all(abs(a - b) <= TOLERANCE for a, b in zip(probe, probes[0], strict=True))
        for probe in probes
    )
