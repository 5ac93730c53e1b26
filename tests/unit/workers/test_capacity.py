"""What fits on a cluster and what never will: against brute force over all placements."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrl.workers.capacity import Node, RolePlan, shortages, table


def plan(role: str, workers: int, cpus: float = 1, gpus: float = 0, strategy="SPREAD", **labels: str) -> RolePlan:
    return RolePlan(role, workers, cpus, gpus, None, strategy, labels)


def node(cpus: float, gpus: int = 0, **labels: str) -> Node:
    return Node(cpus, (1.0,) * gpus, labels)


@pytest.mark.parametrize(("plans", "nodes", "said"), [
    ([plan("policy", 4, 1, 1)], [node(8, 4)], None),
    ([plan("policy", 5, 1, 1)], [node(8, 4)], r"\(5 CPU, 5 GPU\) asked, \(8 CPU, 4 GPU\) there"),
    ([plan("policy", 4, 1, 1, "PACK")], [node(8, 2), node(8, 2)], None),
    ([plan("policy", 4, 1, 1, "STRICT_PACK")], [node(8, 2), node(8, 2)], "the best node has room for 2"),
    ([plan("policy", 2, 4)], [node(3), node(5)], "all nodes together have room for 1"),
    ([plan("rollout", 2, 1, 0.5)], [node(4, 1)], None),
    ([plan("rollout", 2, 1, 0.6)], [node(4, 1), node(4, 1)], None),
    ([plan("rollout", 3, 1, 0.6)], [node(9, 2)], "all nodes together have room for 2"),  # 1.8 of 2 GPUs
    ([plan("rollout", 1, 1, 2)], [node(4, 1), node(4, 1)], "room for 0"),
    ([plan("a", 1, 1, 0.7), plan("b", 1, 1, 0.7), plan("c", 1, 1, 0.3), plan("d", 1, 1, 0.3)], [node(9, 2)], None),
    ([plan("a", 2, 1, 0.4), plan("b", 4, 1, 0.3)], [node(9, 2)], None),  # not with the fullest GPU first
    ([plan("a", 1, 1, 0.7), plan("b", 1, 1, 0.7), plan("c", 1, 1, 0.6)], [node(9, 2)], "not all of them together"),
    ([plan("rollout", 1, 1, 0, zone="b")], [node(4, zone="a")], "no node has the labels zone=b"),
    ([plan("rollout", 2, 3, 0, zone="b")], [node(9, zone="a"), node(4, zone="b")], "room for 1"),
    ([plan("rollout", 1, 3, 0, zone="b"), plan("policy", 1, 3)], [node(4), node(4, zone="b")], None),
    ([plan("a", 1, 3), plan("b", 1, 3)], [node(4), node(2)], "not all of them together"),
    ([plan("rollout", 1, 3, 0, zone="b")], [Node(4, (), None)], None),  # the autoscaler's: it may have the label
])
def test_what_can_never_fit_is_named(plans: list[RolePlan], nodes: list[Node], said: str | None) -> None:
    found = "; ".join(shortages(plans, nodes))
    assert found == "" if said is None else re.search(said, found), found


def brute_force(plans: list[RolePlan], nodes: list[Node]) -> bool:
    """Every assignment of workers to nodes (CPUs only)."""
    workers = [p for p in plans for _ in range(p.workers)]
    for places in itertools.product(range(len(nodes)), repeat=len(workers)):
        used = [sum(w.cpus for w, place in zip(workers, places, strict=True) if place == i) for i in range(len(nodes))]
        together = all(
            len({place for w, place in zip(workers, places, strict=True) if w is p}) == 1
            for p in plans if p.strategy == "STRICT_PACK"
        )
        if together and all(u <= n.cpus for u, n in zip(used, nodes, strict=True)):
            return True
    return False


@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(1, 4), st.sampled_from(["SPREAD", "STRICT_PACK"])),
             min_size=1, max_size=3),
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
)
def test_refused_exactly_when_no_placement_exists(roles: list[tuple[int, int, str]], cpus: list[int]) -> None:
    plans = [plan(str(i), workers, each, strategy=strategy) for i, (workers, each, strategy) in enumerate(roles)]
    nodes = [node(n) for n in cpus]
    assert (shortages(plans, nodes) == []) == brute_force(plans, nodes)


def test_nodes_are_alike_whatever_their_ids() -> None:
    """Else every order of them would be tried, and the search would give up."""
    nodes = [node(5, **{"ray.io/node-id": str(i)}) for i in range(40)]
    (problem,) = shortages([plan("a", 20, 3), plan("b", 21, 3)], nodes)
    assert problem == "each role fits alone, but not all of them together"


def test_a_large_request_is_judged_at_once() -> None:
    assert shortages([plan("rollout", 399, 1, 0.3), plan("policy", 1, 1, 1)], [node(16, 8)] * 25) == []
    assert shortages([plan("rollout", 5000)], [node(1)] * 4999)


def test_the_table_names_roles_and_kinds_of_nodes() -> None:
    text = table([plan("policy", 2, 1, 1, "STRICT_PACK"), plan("rollout", 8, 2, 0.5, zone="b")],
                 [node(8, 4), node(8, 4), node(4, zone="b"), Node(64, (1.0,) * 8, None)])
    assert [" ".join(line.split()) for line in text.splitlines()] == [
        "asked policy 2 × (1 CPU, 1 GPU) on one node",
        "asked rollout 8 × (2 CPU, 0.5 GPU) spread, zone=b",
        "there nodes 2 × (8 CPU, 4 GPU)",
        "there nodes 1 × (4 CPU, 0 GPU), zone=b",
        "there could start 1 × (64 CPU, 8 GPU)",
    ]
