"""Whether a cluster can ever hold what a run asks for: arithmetic on nodes, without Ray."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

TRIES = 20_000  # placements looked at before a run counts as possible
MAX_WORKERS = 400  # a run with more is judged by its sums alone
TINY = 1e-6


@dataclass(frozen=True)
class RolePlan:
    """What one role asks of the cluster."""

    role: str
    workers: int
    cpus: float  # a worker
    gpus: float  # a worker; below 1 several share a GPU
    threads: int | None  # a worker; None: derived by `threads_for`
    strategy: Literal["PACK", "STRICT_PACK", "SPREAD"]
    labels: Mapping[str, str] = field(default_factory=dict)  # its nodes have all of them
    paths: tuple[str, ...] = ()  # what its nodes must see
    extra: int = 0  # workers that may join while the run goes on; it starts without them

    @property
    def most(self) -> int:
        return self.workers + self.extra

    @property
    def needs(self) -> str:
        where = {"STRICT_PACK": "on one node", "PACK": "packed", "SPREAD": "spread"}[self.strategy]
        more = [f"up to {self.most}"] if self.extra else []
        return ", ".join([f"{self.workers} × {size(self.cpus, self.gpus)} {where}", *more, *named(self.labels)])


@dataclass(frozen=True)
class Node:
    """What is free on a node. `labels` None: a node that the autoscaler could start, whose labels nobody knows yet."""

    cpus: float
    gpus: tuple[float, ...]  # of each GPU
    labels: Mapping[str, str] | None = field(default_factory=dict)
    name: str = ""

    def suits(self, plan: RolePlan) -> bool:
        return self.labels is None or all(self.labels.get(key) == value for key, value in plan.labels.items())

    def takes(self, plan: RolePlan) -> list[Node]:
        """What is left of the node with one more worker of the role, once for each GPU share it could take."""
        if not self.suits(plan) or self.cpus + TINY < plan.cpus:
            return []
        whole, part = (0, plan.gpus) if plan.gpus < 1 else (math.ceil(plan.gpus), 0.0)
        free = sorted(self.gpus)
        if whole:
            if sum(share > 1 - TINY for share in free) < whole:
                return []
            choices = [free[: len(free) - whole] + [0.0] * whole]
        elif part:
            shares = {round(share, 6): i for i, share in enumerate(free) if share + TINY >= part}
            choices = [[*free[:i], free[i] - part, *free[i + 1 :]] for i in shares.values()]
        else:
            choices = [free]
        return [replace(self, cpus=self.cpus - plan.cpus, gpus=tuple(sorted(gpus))) for gpus in choices]

    def room(self, plan: RolePlan) -> int:
        """How many workers of the role the empty node could hold, at most as many as there are."""
        count, left = 0, self.takes(plan)
        while left and count < plan.workers:
            count, left = count + 1, left[0].takes(plan)  # the fullest GPU: the best for workers of one size
        return count


def shortages(plans: Sequence[RolePlan], nodes: Sequence[Node]) -> list[str]:
    """Why the empty nodes can never hold the roles; [] when they can, or when finding out takes too long."""
    cpus, gpus = (sum(p.workers * getattr(p, what) for p in plans) for what in ("cpus", "gpus"))
    have_cpus, have_gpus = sum(n.cpus for n in nodes), float(sum(len(n.gpus) for n in nodes))
    if cpus > have_cpus + TINY or gpus > have_gpus + TINY:
        return [f"{size(cpus, gpus)} asked, {size(have_cpus, have_gpus)} there"]
    alone = [problem for plan in plans if (problem := _alone(plan, nodes))]
    if alone or sum(p.workers for p in plans) > MAX_WORKERS:
        return alone
    order = sorted(plans, key=lambda p: (p.strategy == "STRICT_PACK", bool(p.labels), p.gpus, p.cpus), reverse=True)
    return [] if _Search(order).fits(tuple(nodes)) else ["each role fits alone, but not all of them together"]


def _alone(plan: RolePlan, nodes: Sequence[Node]) -> str | None:
    rooms = [node.room(plan) for node in nodes]
    if plan.strategy == "STRICT_PACK":
        found, place = max(rooms, default=0), "the best node has"
    else:
        found, place = sum(rooms), "all nodes together have"
    if found >= plan.workers:
        return None
    if plan.labels and not any(node.suits(plan) for node in nodes):
        return f"{plan.role}: no node has the labels {', '.join(named(plan.labels))}"
    return f"{plan.role}: {plan.needs}, but {place} room for {found}"


class _Search:
    """Depth first over workers, the hardest role first; nodes that are alike are tried once."""

    def __init__(self, plans: Sequence[RolePlan]) -> None:
        self.plans = plans
        self.tries = 0

    def fits(self, nodes: tuple[Node, ...], role: int = 0, placed: int = 0, first: int = 0) -> bool:
        """The workers from number `placed` of role number `role` on find room; those of the role on nodes ≥ `first`."""
        if role == len(self.plans):
            return True
        plan = self.plans[role]
        if placed == plan.workers:
            return self.fits(nodes, role + 1)
        for i, after in self._choices(plan, nodes, first):
            self.tries += 1
            if self.tries > TRIES:
                return True
            rest = (*nodes[:i], after, *nodes[i + 1 :])
            done = plan.workers if plan.strategy == "STRICT_PACK" else placed + 1
            if self.fits(rest, role, done, i):
                return True
        return False

    def _choices(self, plan: RolePlan, nodes: tuple[Node, ...], first: int) -> Iterator[tuple[int, Node]]:
        """(number, what is left of it) of each node that can take the next worker, or all if they must be together."""
        seen = set()
        for i, node in enumerate(nodes[first:], first):
            key = (node.cpus, node.gpus, tuple(node.suits(p) for p in self.plans))
            left = {node.gpus: node}
            for _ in range(plan.workers if plan.strategy == "STRICT_PACK" else 1):
                left = {after.gpus: after for one in left.values() for after in one.takes(plan)}
            if i == first or key not in seen:
                yield from ((i, after) for after in left.values())
            seen.add(key)


def table(plans: Sequence[RolePlan], nodes: Sequence[Node]) -> str:
    """What is asked, role by role, and what there is, alike nodes together."""
    kinds = Counter((n.cpus, len(n.gpus), None if n.labels is None else tuple(named(n.labels))) for n in nodes)
    rows = [("asked", plan.role, plan.needs) for plan in plans]
    for (cpus, gpus, labels), count in kinds.items():
        kind = "could start" if labels is None else "nodes"
        rows.append(("there", kind, ", ".join([f"{count} × {size(cpus, gpus)}", *(labels or ())])))
    width = max(len(what) for _, what, _ in rows)
    return "\n".join(f"  {side}  {what:{width}}  {text}" for side, what, text in rows)


def size(cpus: float, gpus: float) -> str:
    return f"({cpus:g} CPU, {gpus:g} GPU)"


def named(labels: Mapping[str, str]) -> list[str]:
    """As `key=value`, without those that Ray gives every node."""
    return [f"{key}={value}" for key, value in sorted(labels.items()) if key != "ray.io/node-id"]
