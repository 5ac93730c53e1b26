"""The pool's machine against simulated workers that die, hang, answer late, start slowly, join and leave."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrl.errors import WeightSyncError, WorkerError
from medrl.faults.commands import Discard, Joined, Reissued, Release, Run, Spawn, Sync
from medrl.faults.job import ATTEMPTS, Job, share_out
from medrl.faults.pool import PoolMachine
from tests.unit.faults.simulation import LIMITS, Faults, Plan, play

chance = st.sampled_from([0.0, 0.0, 0.02, 0.1, 0.3])
faults = st.builds(Faults, die=chance, hang=chance, late=chance, churn=st.sampled_from([0.0, 0.0, 0.01, 0.05]))
plans = st.builds(
    Plan, seed=st.integers(0, 2**32), workers=st.integers(1, 6), extra=st.integers(0, 4), room=st.integers(0, 4),
    items=st.integers(1, 30), rounds=st.integers(1, 5), budget=st.sampled_from([0, 3, 30, 1000]),
    stateless=st.booleans(), faults=faults)


@settings(max_examples=400)
@given(plans)
def test_whatever_happens_each_item_counts_once_or_the_run_ends_for_a_true_reason(plan: Plan) -> None:
    play(plan)


@settings(max_examples=100)
@given(plans)
def test_without_faults_every_run_is_done_and_nothing_is_issued_twice(plan: Plan) -> None:
    world, end = play(replace(plan, faults=Faults()))
    assert end == "done" and world.losses == 0 and world.reissued == 0


@pytest.mark.heavy
@settings(max_examples=4000)
@given(plans)
def test_thousands_of_schedules(plan: Plan) -> None:
    play(plan)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(2))
def test_a_thousand_workers(seed: int) -> None:
    """Dozens are lost over three rounds, and others come: the run goes on."""
    plan = Plan(seed, 1000, extra=100, room=300, items=4000, rounds=3, budget=10**6,
                stateless=bool(seed % 2), faults=Faults(0.006, 0.002, 0.002), calm_start=True)
    world, end = play(plan)
    assert end == "done" and world.losses > 10 and world.reissued > 10


def test_every_end_comes_about() -> None:
    """What the schedules above try is not all of one kind."""
    ends = Counter(
        play(Plan(seed, 3, 2, 1, 20, 4, 12, bool(seed % 2), Faults(0.1, 0.03, 0.03, 0.01)))[1] for seed in range(300))
    assert all(ends[end] >= 3 for end in ("done", "over budget", "too few", "hopeless")), ends


# By example


def machine(workers: int = 2, stateless: bool = False) -> PoolMachine:
    """All members have started at time 0, and hold version 1 unless they are stateless."""
    pool = PoolMachine("rollout", LIMITS, stateless=stateless)
    pool.grow(workers, 0.0)
    for number in range(workers):
        pool.placed(number, f"node{number}", 0.0)
        pool.started(number, 0.0)
    if not stateless:
        pool.update(1, 0.0)
        for number in range(workers):
            pool.synced(number, 1, 0.0)
    pool.commands.clear()
    return pool


def told(pool: PoolMachine) -> list:
    commands = list(pool.commands)
    pool.commands.clear()
    return commands


def test_items_are_shared_out_by_weight() -> None:
    assert share_out(range(4), [9.0, 3.0, 3.0, 3.0], {0: 0.0, 1: 0.0}) == {0: [0], 1: [1, 2, 3]}
    assert share_out([0, 1], [1.0, 1.0], {0: 5.0, 1: 0.0}) == {0: [], 1: [0, 1]}
    pool = machine()
    pool.begin([1.0, 1.0, 1.0], 0.0)
    assert told(pool) == [Run(0, (0, 1)), Run(1, (2,))]


@given(st.lists(st.floats(0.5, 20.0), min_size=1, max_size=40), st.lists(st.floats(0.0, 50.0), min_size=1, max_size=8))
def test_shares_are_even_and_neighbours_stay_together(weights: list[float], busy: list[float]) -> None:
    loads = dict(enumerate(busy))
    shares = share_out(range(len(weights)), weights, loads)
    assert sorted(item for share in shares.values() for item in share) == list(range(len(weights)))
    assert all(share == list(range(share[0], share[-1] + 1)) for share in shares.values() if share)
    assert shares[min(loads, key=lambda member: (loads[member], member))]
    level = min((sum(weights) + sum(sorted(busy)[:n])) / n for n in range(1, len(busy) + 1))
    for member, share in shares.items():
        assert not share or loads[member] + sum(weights[i] for i in share) <= level + 2 * max(weights) + 1e-6


def test_the_share_of_a_lost_member_goes_to_others_and_its_late_answer_is_dropped() -> None:
    pool = machine()
    job = pool.begin([1.0, 1.0], 0.0)
    told(pool)
    pool.lost(1, "it died", 1.0)
    assert told(pool) == [Discard(1, "rollout 1 on node1", "it died"), Reissued(1, "rollout 1 on node1"), Spawn(2)]
    pool.answered(1, ["late"], 2.0)
    pool.answered(0, ["a"], 3.0)
    assert told(pool) == [Run(0, (1,))] and not job.done
    pool.answered(0, ["b"], 4.0)
    assert job.done and job.answers == ["a", "b"]


def test_a_member_that_is_silent_is_lost_at_its_deadline() -> None:
    pool = machine(1)
    pool.begin([1.0], 5.0)
    told(pool)
    assert pool.deadline == 5.0 + LIMITS.run
    pool.tick(pool.deadline - 0.1)
    assert not told(pool)
    pool.tick(pool.deadline)
    assert told(pool)[0] == Discard(0, "rollout 0 on node0", "no answer within 100 s")
    assert pool.deadline == 5.0 + LIMITS.run + LIMITS.start  # a pool without members


def test_a_new_member_works_only_once_it_has_the_newest_weights() -> None:
    pool = machine(1)
    pool.grow(2, 0.0)
    pool.started(1, 1.0)
    assert told(pool) == [Spawn(1), Sync(1, 1)]
    pool.begin([1.0, 1.0], 2.0)
    assert told(pool) == [Run(0, (0, 1))]
    pool.update(2, 3.0)  # the job is given up
    assert not told(pool)  # both are busy
    pool.synced(1, 1, 4.0)
    assert told(pool) == [Sync(1, 2)] and not pool.updated
    pool.answered(0, ["a", "b"], 5.0)
    assert told(pool) == [Sync(0, 2)]
    pool.synced(1, 2, 6.0)
    pool.synced(0, 2, 6.0)
    assert pool.updated and told(pool) == [Joined(1, "rollout 1")]


def test_a_member_on_a_wrong_node_is_asked_for_again_and_is_no_loss() -> None:
    pool = machine(1)
    pool.grow(2, 0.0)
    pool.refused(1, 1.0)
    assert told(pool) == [Spawn(1), Release(1), Spawn(2)]
    pool.started(1, 2.0)  # what it says is not listened to any more
    assert pool.ready == [0] and not told(pool)
    pool.placed(2, "node2", 3.0)
    pool.started(2, 4.0)
    assert told(pool) == [Sync(2, 1)]
    pool.synced(2, 1, 5.0)
    assert told(pool) == [Joined(2, "rollout 1 on node2")]


def test_without_weights_nothing_is_worked_on() -> None:
    pool = machine(1)
    pool.update(None, 0.0)  # the learners went back
    with pytest.raises(WeightSyncError, match="sync weights first"):
        pool.begin([1.0], 0.0)


def test_an_item_that_seems_to_kill_workers_ends_the_run() -> None:
    pool = machine(3, stateless=True)
    pool.begin([1.0], 0.0)
    for _ in range(3):
        run = next(c for c in told(pool) if isinstance(c, Run))
        pool.check(0.0)
        pool.lost(run.member, "it died", 1.0)
    with pytest.raises(WorkerError, match="each with 3 workers that were lost"):
        pool.check(1.0)


def test_too_few_members_is_said_with_names() -> None:
    pool = PoolMachine("reward", LIMITS, stateless=True)
    pool.grow(3, 0.0)
    pool.need(3, 0.0)
    pool.placed(0, "a", 1.0)
    pool.started(0, 1.0)
    pool.placed(1, "b", 2.0)
    pool.check(LIMITS.start - 1)
    with pytest.raises(WorkerError) as caught:
        pool.check(LIMITS.start)
    assert caught.value.got == "1 ready; reward 1 on b is starting, reward 2 waits for room"


def test_members_beyond_those_needed_make_room_the_ones_without_a_place_first() -> None:
    pool = machine(3)
    pool.grow(4, 0.0)
    told(pool)
    pool.shrink(2, 1.0)
    assert told(pool) == [Release(2), Release(3)]
    pool.answered(2, ["late"], 2.0)
    pool.shrink(2, 3.0)
    assert not told(pool) and pool.ready == [0, 1]
    pool.lost(0, "it died", 4.0)
    pool.shrink(1, 5.0)
    pool.grow(3, 6.0)
    assert sorted(member.slot for member in pool.members.values()) == ["rollout 0", "rollout 1", "rollout 2"]


def test_what_a_member_that_makes_room_had_to_do_is_done_by_the_others() -> None:
    pool = machine(2, stateless=True)
    for round_ in range(ATTEMPTS + 1):  # it is no loss, however often it happens
        if round_:
            pool.grow(2, 0.0)
            pool.started(1 + round_, 0.0)
        else:
            job = pool.begin([1.0, 1.0], 0.0)
        told(pool)
        pool.shrink(1, 1.0)
        assert told(pool) == [Release(1 + round_)] and not job.hopeless
    pool.answered(0, ["a"], 2.0)
    assert told(pool) == [Run(0, (1,))]
    pool.answered(0, ["b"], 3.0)
    assert job.done and job.answers == ["a", "b"]


def test_a_pool_is_cramped_when_it_is_short_of_room_and_not_while_models_load() -> None:
    pool = machine(1, stateless=True)
    assert not pool.cramped(1e9, 20.0)
    pool.begin([1.0], 10.0)
    pool.lost(0, "it died", 10.0)
    assert not pool.cramped(29.0, 20.0) and pool.cramped(30.0, 20.0)
    pool.placed(1, "node", 30.0)
    assert not pool.cramped(49.0, 20.0)


def test_a_job_counts_an_item_once() -> None:
    job = Job([1.0, 1.0])
    job.send([0, 1])
    with pytest.raises(KeyError):
        job.send([0])
    with pytest.raises(ValueError):
        job.answer([0, 1], ["only one"])
