"""Who serves which version, and how all change it together: a state machine without clocks, network or Ray.

A swap has two phases. PREPARING: every replica finds out whether it could load the new version, and goes on serving the
old one. LOADING: every replica finishes its answers, holds what comes in, and loads. Only when all have loaded does
any answer again; when one cannot, all of them go back to the old version.

What holds at every moment: no two replicas answer with different versions. It rests on three rules. A replica carries
out one order at a time and reports in between, so that a report says where it stands; a swap starts only when every
replica has reported that it serves the present version; a new replica answers nothing before it is told to, and it is
not told to while a swap runs.

A conductor that is restarted knows nothing. It waits until every running replica has reported, and takes over the
version that they serve (there is one at most), or served last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from serve.swap.messages import Action, Order, Report, Target, agree


class Phase(StrEnum):
    """What the replicas are doing together."""

    RECOVERING = "recovering"  # not all replicas have said where they stand
    SERVING = "serving"
    PREPARING = "preparing"
    LOADING = "loading"


@dataclass
class Member:
    """A replica that has reported, and what it is to do (None: wait)."""

    report: Report
    order: Order | None = None

    @property
    def busy(self) -> bool:
        return self.order is not None and self.report.done < self.order.number

    def serves(self, target: Target | None) -> bool:
        return self.report.serving and self.report.loaded == target


@dataclass(frozen=True)
class Outcome:
    """How a swap ended. `why`: None when it succeeded."""

    before: Target
    target: Target
    why: str | None = None


class Machine:
    """The conductor's mind. Every method takes one piece of news and draws all conclusions."""

    def __init__(self, first_number: int = 1) -> None:
        self.phase = Phase.RECOVERING
        self.current: Target | None = None  # what is served; None while that is not known
        self.wanted: Target | None = None  # what the registry says
        self.refused: Target | None = None  # a target that failed, and is not tried again by itself
        self.target: Target | None = None  # of the swap that runs
        self.last: Outcome | None = None
        self.members: dict[str, Member] = {}
        self._running: int | None = None  # replicas that Ray Serve says are running
        self._next = first_number

    # News

    def want(self, target: Target) -> None:
        """The registry names this version."""
        if target != self.wanted:
            self.wanted, self.refused = target, None
        self._advance()

    def retry(self) -> None:
        """Try the wanted version again, though it failed."""
        self.refused = None
        self._advance()

    def census(self, running: int) -> None:
        """So many replicas are running, whether they have reported or not."""
        self._running = running
        self._advance()

    def report(self, name: str, report: Report) -> None:
        """A replica says where it stands."""
        member = self.members.setdefault(name, Member(report))
        member.report = report
        self._advance()

    def gone(self, name: str) -> None:
        """A replica is dead."""
        self.members.pop(name, None)
        self._advance()

    def give_up(self, why: str) -> None:
        """The swap that runs has taken too long."""
        if self.target:
            self._abort(why)
        self._advance()

    # Answers

    def first_target(self) -> Target | None:
        """What a replica loads first; None: it is to ask again."""
        return self.current if self.phase is Phase.SERVING else None

    def order_for(self, name: str) -> Order | None:
        """What the replica has to do and has not done yet."""
        member = self.members.get(name)
        return member.order if member and member.busy else None

    @property
    def settled(self) -> bool:
        """Every replica serves the present version, and there is at least one."""
        return bool(self.members) and all(m.serves(self.current) and not m.busy for m in self.members.values())

    def waiting_for(self) -> list[str]:
        """The replicas that have not done yet what they were told."""
        return sorted(name for name, member in self.members.items() if member.busy)

    # Conclusions

    def _advance(self) -> None:
        if self.phase is Phase.RECOVERING:
            self._recover()
        if self.phase in (Phase.PREPARING, Phase.LOADING):
            self._continue()
        if self.phase is Phase.SERVING:
            self._serve()

    def _recover(self) -> None:
        seasoned = [member.report for member in self.members.values() if member.report.served]
        if self._running is None or len(seasoned) < self._running:
            return
        served = [r.loaded for r in seasoned if r.serving and r.loaded] or [r.served for r in seasoned if r.served]
        self.current = Counter(served).most_common(1)[0][0] if served else self.wanted
        if self.current:
            self.phase = Phase.SERVING

    def _serve(self) -> None:
        assert self.current
        for member in self.members.values():
            told = member.order and member.order.action is Action.SERVE and member.order.target == self.current
            if not told:
                self._order([member], Action.SERVE, self.current)
        if self.wanted in (None, self.current, self.refused) or not self.settled:
            return
        self.target, self.phase = self.wanted, Phase.PREPARING
        self._order(self.members.values(), Action.PREPARE, self.wanted)

    def _continue(self) -> None:
        assert self.target
        party = {n: m for n, m in self.members.items() if m.order is not None}  # others came later: they wait
        failed = [f"{name}: {m.report.failure}" for name, m in party.items() if not m.busy and m.report.failure]
        if failed or not party:
            return self._abort("; ".join(failed) or "no replica is left")
        if any(member.busy for member in party.values()):
            return
        if self.phase is Phase.PREPARING:
            self.phase = Phase.LOADING
            return self._order(party.values(), Action.LOAD, self.target)
        if not agree([member.report.probe for member in party.values()]):
            return self._abort("the replicas' log-probs of one text differ: not all have the new weights")
        self._end(None)

    def _abort(self, why: str) -> None:
        self.refused = self.target
        self._end(why)

    def _end(self, why: str | None) -> None:
        assert self.current and self.target
        self.last = Outcome(self.current, self.target, why)
        self.current = self.current if why else self.target
        self.target, self.phase = None, Phase.SERVING
        for member in self.members.values():
            member.order = None

    def _order(self, members: Iterable[Member], action: Action, target: Target) -> None:
        for member in members:
            member.order = Order(self._next, action, target)
            self._next += 1
