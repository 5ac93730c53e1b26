"""What a pool's machine wants done. Members are numbered; a replacement has a number of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spawn:
    """Ask the cluster for a worker and have it start."""

    member: int


@dataclass(frozen=True)
class Sync:
    """Have the member take over the weights of `version`."""

    member: int
    version: int


@dataclass(frozen=True)
class Run:
    """Have the member work on these items of the current job."""

    member: int
    items: tuple[int, ...]


@dataclass(frozen=True)
class Discard:
    """Count the member as lost and kill what is left of it: nothing it says is listened to any more."""

    member: int
    name: str
    reason: str


@dataclass(frozen=True)
class Release:
    """Have the member end, which is no loss: others need its place, or it has a wrong one."""

    member: int


@dataclass(frozen=True)
class Joined:
    """To be told: the member may get work from now on."""

    member: int
    name: str


@dataclass(frozen=True)
class Reissued:
    """To be told: items of a lost member go to others."""

    items: int
    name: str  # of the lost member


Command = Spawn | Sync | Run | Discard | Release | Joined | Reissued
