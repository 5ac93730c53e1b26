"""One sender, several receivers in threads over fake channels: who dies or hangs holds up nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread

import pytest
import torch

from medrl.errors import WorkerLost
from medrl.types import Channel
from medrl.weight_sync.publisher import fingerprint, make_weights
from medrl.weight_sync.sender import send_to_all
from medrl.weight_sync.stream import Incoming, notice_of
from tests.unit.weight_sync.channels import FakeWire
from tests.unit.weight_sync.test_fingerprint import PROBE

TENSORS = {f"{n}.weight": torch.full((5,), float(n)) for n in range(4)}
LONG = 60.0  # nothing here lasts so long, unless it waits for what never comes


class FakeEngine:
    """Takes `stops` tensors off its wire, then does nothing any more; `over` once it has all, or somebody says so."""

    def __init__(self, stops: int = len(TENSORS)) -> None:
        self.wire, self.over, self.arrived = FakeWire(), Event(), {}
        self.hung_up = False  # the sender did, before this one was over
        Thread(target=self._take, args=(stops,), daemon=True).start()

    def connect(self) -> Channel:
        return self.wire.sender

    def _take(self, stops: int) -> None:
        incoming = iter(Incoming(notice_of(make_weights(1, "full", TENSORS, {}, PROBE)), self.wire.receiver))
        for _ in range(stops):
            name, tensor = next(incoming)
            self.arrived[name] = tensor
        if stops == len(TENSORS):
            self.hung_up = self.wire.sender.closed.wait(0.1)
            self.over.set()


def answered(*engines: FakeEngine) -> Callable[[], list[int]]:
    def over() -> list[int]:
        time.sleep(0.01)
        return [number for number, engine in enumerate(engines) if engine.over.is_set()]

    return over


def send(engines: list[FakeEngine], seconds: float = LONG, connects: list | None = None) -> dict[int, str]:
    return send_to_all(TENSORS, connects or [e.connect for e in engines], answered(*engines), seconds)


def whole(engine: FakeEngine) -> bool:
    return fingerprint(engine.arrived) == fingerprint(TENSORS)


def test_every_receiver_gets_everything_in_order() -> None:
    engines = [FakeEngine() for _ in range(3)]
    assert send(engines) == {}
    for engine in engines:
        assert whole(engine) and list(engine.arrived) == sorted(TENSORS)
        assert not engine.hung_up and engine.wire.sender.closed.is_set()


def test_one_that_dies_in_mid_stream_holds_up_nobody() -> None:
    dying, well = FakeEngine(stops=2), FakeEngine()

    def notice_the_death() -> None:
        well.over.wait(LONG)
        dying.over.set()

    Thread(target=notice_the_death, daemon=True).start()
    assert send([dying, well]) == {}  # whose death is known needs no other reason
    assert whole(well) and not whole(dying) and dying.wire.sender.closed.is_set()


def test_one_that_never_connects_is_left_behind() -> None:
    absent, well, released = FakeEngine(stops=0), FakeEngine(), Event()

    def wait_for_ever() -> Channel:
        released.wait(LONG)
        return absent.wire.sender

    def give_up() -> None:
        well.over.wait(LONG)
        absent.over.set()

    Thread(target=give_up, daemon=True).start()
    assert send([absent, well], connects=[wait_for_ever, well.connect]) == {} and whole(well)
    released.set()  # it connects after all: nothing is sent any more
    assert absent.wire.sender.closed.wait(LONG) and not absent.wire.sent


def test_silence_has_an_end() -> None:
    silent = FakeEngine(stops=1)
    assert send([silent], seconds=0.1) == {} and silent.wire.sender.closed.is_set()


@pytest.mark.parametrize("error", [WorkerLost("the wire is cut"), RuntimeError("out of memory")])
def test_a_send_that_breaks_is_told_with_its_reason_when_its_receiver_is_over(error: Exception) -> None:
    broken, well = FakeEngine(stops=0), FakeEngine()

    def fail() -> Channel:
        raise error

    def give_up() -> None:
        well.over.wait(LONG)
        broken.over.set()

    Thread(target=give_up, daemon=True).start()
    assert send([broken, well], connects=[fail, well.connect]) == {0: f"{type(error).__name__}: {error}"}
    assert whole(well)


def test_a_wire_that_is_cut_is_told_too() -> None:
    engine = FakeEngine(stops=1)

    def cut() -> None:
        while len(engine.wire.sent) < 3:
            time.sleep(0.01)
        engine.wire.cut.set()
        assert engine.wire.sender.closed.wait(LONG)
        engine.over.set()

    Thread(target=cut, daemon=True).start()
    assert "the other end is gone" in send([engine])[0]
