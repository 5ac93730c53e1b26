"""The conductor's state machine: by example, and against simulated replicas that do, fail and die in any order."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from serve.swap.machine import Machine, Phase
from serve.swap.messages import Action, Order, Report, Target
from tests.serve.swap.targets import target

A, B, C = target(1), target(2), target(3)


@dataclass
class Replica:
    """What a replica is, whatever the conductor thinks."""

    loaded: Target | None
    serving: bool = False
    served: Target | None = None
    done: int = 0
    failure: str | None = None
    order: Order | None = None  # being carried out
    broken: bool = False

    @property
    def report(self) -> Report:
        probe = (float(self.loaded.version.number),) if self.loaded else ()
        return Report(self.loaded, self.serving, self.served, self.done, self.failure, probe)

    def carry_out(self, well: bool) -> None:
        assert self.order
        action, new = self.order.action, self.order.target
        if action is Action.LOAD or (action is Action.SERVE and self.loaded != new):
            self.serving, self.loaded = False, new if well else None
        if action is Action.SERVE:
            self.serving, self.broken = well, not well
            self.served = new if well else self.served
        self.done, self.failure = self.order.number, None if well else "it failed"
        self.order = None


def fleet(machine: Machine, first: Target, names: str = "xy") -> dict[str, Replica]:
    """Replicas that serve `first`."""
    machine.census(0)
    machine.want(first)
    replicas = {name: Replica(machine.first_target()) for name in names}
    settle(machine, replicas)
    return replicas


def settle(machine: Machine, replicas: dict[str, Replica], steps: int = 50) -> None:
    """Every replica does well what it is told, until there is nothing to do."""
    for _ in range(steps):
        for name, replica in replicas.items():
            turn(machine, name, replica)


def turn(
    machine: Machine, name: str, replica: Replica, well: bool = True, probe: tuple[float, ...] | None = None
) -> None:
    machine.report(name, replica.report)
    replica.order = machine.order_for(name)
    if replica.order:
        replica.carry_out(well)
        machine.report(name, replica.report if probe is None else replace(replica.report, probe=probe))


def test_a_promotion_takes_all_replicas_along() -> None:
    machine = Machine()
    replicas = fleet(machine, A)
    machine.want(B)
    assert machine.phase is Phase.PREPARING and all(r.serving for r in replicas.values())
    settle(machine, replicas)
    assert {(r.loaded, r.serving) for r in replicas.values()} == {(B, True)}
    assert machine.last and machine.last.why is None and machine.first_target() == B


def test_nobody_answers_with_the_new_version_before_all_have_it() -> None:
    machine = Machine()
    replicas = fleet(machine, A)
    machine.want(B)
    for name, replica in replicas.items():
        turn(machine, name, replica)  # prepares
    turn(machine, "x", replicas["x"])
    assert machine.waiting_for() == ["y"]
    assert (replicas["x"].loaded, replicas["x"].serving) == (B, False)
    assert (replicas["y"].loaded, replicas["y"].serving) == (A, True)
    settle(machine, replicas)
    assert machine.current == B and all(r.serving and r.loaded == B for r in replicas.values())


def test_a_load_that_fails_on_one_brings_all_back_and_is_not_tried_again() -> None:
    machine = Machine()
    replicas = fleet(machine, A)
    machine.want(B)
    for name, replica in replicas.items():
        turn(machine, name, replica)
    turn(machine, "x", replicas["x"])
    assert replicas["x"].loaded == B
    turn(machine, "y", replicas["y"], well=False)
    assert machine.last and machine.last.why == "y: it failed"
    settle(machine, replicas)
    assert {(r.loaded, r.serving) for r in replicas.values()} == {(A, True)}
    machine.want(B)
    assert machine.phase is Phase.SERVING
    machine.retry()
    settle(machine, replicas)
    assert machine.current == B


def test_replicas_that_answer_differently_do_not_serve() -> None:
    machine = Machine()
    replicas = fleet(machine, A)
    machine.want(B)
    for name, replica in replicas.items():
        turn(machine, name, replica)
    turn(machine, "x", replicas["x"])
    turn(machine, "y", replicas["y"], probe=(9.0,))
    settle(machine, replicas)
    assert machine.current == A and machine.last and machine.last.why and "differ" in machine.last.why


def test_one_that_dies_is_left_out_and_its_successor_waits_for_the_end() -> None:
    machine = Machine()
    replicas = fleet(machine, A)
    machine.want(B)
    turn(machine, "x", replicas["x"])
    machine.gone("y")
    assert machine.phase is Phase.LOADING and machine.first_target() is None
    settle(machine, {"x": replicas["x"]})
    assert machine.first_target() == B and replicas["x"].served == B


def test_a_replica_that_was_starting_during_the_swap_serves_what_the_swap_ended_with() -> None:
    machine = Machine()
    replicas = fleet(machine, A)
    late = Replica(machine.first_target())
    machine.want(B)
    turn(machine, "z", late)
    assert late.order is None and not late.serving
    settle(machine, replicas | {"z": late})
    assert late.served == B and late.serving


def test_the_second_of_two_promotions_follows_the_first() -> None:
    machine = Machine()
    replicas = fleet(machine, A)
    machine.want(B)
    machine.want(C)
    assert machine.target == B
    settle(machine, replicas)
    assert machine.current == C and machine.last and machine.last.before == B


def test_a_new_conductor_waits_for_all_and_takes_over_what_they_serve() -> None:
    replicas = fleet(Machine(), A)
    replicas["x"].serving, replicas["x"].loaded = False, B  # the old conductor died while x had loaded, and y had not
    machine = Machine(first_number=1000)
    machine.want(B)
    machine.census(2)
    turn(machine, "x", replicas["x"])
    assert machine.phase is Phase.RECOVERING and not replicas["x"].serving
    turn(machine, "y", replicas["y"])
    assert machine.current == A
    settle(machine, replicas)
    assert machine.current == B and all(r.served == B for r in replicas.values())


class Fleet:
    """Everything that can happen, in any order: most of the time replicas work, and seldom something breaks."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.versions, self.lives, self.started, self.swaps = 1, 0, 0, 0
        self.buried: set[str] = set()  # dead, and Ray Serve does not know yet
        self.machine = Machine()
        self.replicas = fleet(self.machine, target(1))

    def step(self) -> None:
        events = {self.work: 60, self.start: 4, self.promote: 4, self.news_gets_around: 5, self.die: 1,
                  self.new_conductor: 1, self.too_late: 0.3, self.retry: 0.3}
        last = self.machine.last
        self.random.choices(list(events), list(events.values()))[0]()
        if self.machine.last is not last and self.machine.last:
            self.swaps += self.machine.last.why is None

    def work(self) -> None:
        """One of them speaks or acts, now and then without success."""
        if not self.replicas:
            return
        name, replica = self.random.choice(list(self.replicas.items()))
        if replica.order:
            replica.carry_out(well=self.random.random() > 0.05)
        elif not replica.broken:
            self.machine.report(name, replica.report)
            replica.order = self.machine.order_for(name)

    def start(self) -> None:
        self.replicas = {name: replica for name, replica in self.replicas.items() if not replica.broken}
        if (first := self.machine.first_target()) and len(self.replicas) < 3:
            self.started += 1
            self.replicas[f"r{self.started}"] = Replica(first)

    def promote(self) -> None:
        self.versions += 1
        self.machine.want(target(self.random.choice([1, self.versions])))

    def news_gets_around(self) -> None:
        for name in self.machine.members.keys() - self.replicas.keys():
            self.machine.gone(name)
        self.machine.census(sum(r.served is not None for r in self.replicas.values()) + len(self.buried))
        self.buried.clear()

    def die(self) -> None:
        if self.replicas:
            name = self.random.choice(list(self.replicas))
            if self.replicas.pop(name).served:
                self.buried.add(name)

    def new_conductor(self) -> None:
        self.lives += 1
        wanted, self.machine = self.machine.wanted, Machine(first_number=self.lives * 1_000_000)
        assert wanted
        self.machine.want(wanted)

    def too_late(self) -> None:
        self.machine.give_up("too late")

    def retry(self) -> None:
        self.machine.retry()

    def end_well(self) -> None:
        self.replicas = {name: replica for name, replica in self.replicas.items() if not replica.broken}
        self.buried.clear()
        self.news_gets_around()
        for replica in self.replicas.values():
            if replica.order:
                replica.carry_out(True)
        settle(self.machine, self.replicas)


def test_replicas_never_answer_with_two_versions_and_agree_in_the_end() -> None:
    swaps = 0
    for seed in range(130):
        chaos = Fleet(seed)
        for step in range(300):
            chaos.step()
            served = {replica.loaded for replica in chaos.replicas.values() if replica.serving}
            assert len(served) <= 1, f"seed {seed}, step {step}"
        chaos.end_well()
        machine = chaos.machine
        assert machine.phase is Phase.SERVING, f"seed {seed}"
        assert all(r.serving and r.loaded == machine.current for r in chaos.replicas.values()), f"seed {seed}"
        assert not chaos.replicas or machine.wanted in (machine.current, machine.refused), f"seed {seed}"
        swaps += chaos.swaps
    assert swaps > 200
