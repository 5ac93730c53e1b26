"""Which road an engine's weights take, over fake Ray handles that write down what is asked of them."""

from __future__ import annotations

from typing import Any

from medrl.workers.offers import StoredOffer, StreamedOffer


class FakeHandle:
    """`handle.method.remote(…)` is a reference like `rollout 1.method#3`, numbered over all calls."""

    calls: list[tuple] = []

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, method: str) -> Any:
        def remote(*arguments: Any) -> str:
            self.calls.append((f"{self.name}.{method}", *arguments))
            return f"{self.name}.{method}#{len(self.calls)}"

        return type("Method", (), {"remote": staticmethod(remote)})


def calls() -> list[tuple]:
    made = list(FakeHandle.calls)
    FakeHandle.calls.clear()
    return made


def test_stored_weights_are_the_same_reference_for_everybody() -> None:
    offer = StoredOffer("weights")  # type: ignore[arg-type]
    offer.begin([0])
    for member in (0, 7):
        offer.ask(member, FakeHandle(f"rollout {member}"), 2)
    assert offer.send() is None
    assert calls() == [("rollout 0.receive", "weights", 2), ("rollout 7.receive", "weights", 2)]


def test_the_first_get_a_channel_each_and_the_late_ones_the_object_store() -> None:
    offer = StreamedOffer(FakeHandle("policy"), "notice")  # type: ignore[arg-type]
    offer.begin([4, 2])
    answers: list[Any] = [offer.ask(member, FakeHandle(f"rollout {member}"), 0) for member in (4, 2)]
    assert offer.send() is not None
    assert calls() == [
        ("policy.open_channels", 2),
        ("rollout 4.receive_stream", "notice", "policy.open_channels#1", 0, 0),
        ("rollout 2.receive_stream", "notice", "policy.open_channels#1", 1, 0),
        ("policy.stream_weights", "policy.open_channels#1", answers)]
    for member in (5, 4, 6):  # 4 again: its stream broke, or an older sync came in between
        offer.ask(member, FakeHandle(f"rollout {member}"), 0)
    assert calls() == [
        ("policy.announced_weights",), *((f"rollout {m}.receive", "policy.announced_weights#1", 0) for m in (5, 4, 6))]


def test_without_an_engine_nothing_is_sent() -> None:
    offer = StreamedOffer(FakeHandle("policy"), "notice")  # type: ignore[arg-type]
    offer.begin([])
    assert offer.send() is None and calls() == []
