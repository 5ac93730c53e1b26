"""Signals raise at once, or wait for a consistent state."""

from __future__ import annotations

import os
import signal

import pytest

from medrl.workers.interrupt import Interrupted, Interrupts


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_outside_a_deferred_block_raises_on_the_spot(signum: int, code: int) -> None:
    with Interrupts().installed(), pytest.raises(Interrupted) as caught:
        os.kill(os.getpid(), signum)
        pytest.fail("not reached")
    assert caught.value.exit_code == code and caught.value.orderly


def test_a_signal_in_a_deferred_block_waits_for_its_end() -> None:
    interrupts, finished = Interrupts(), False
    with interrupts.installed(), pytest.raises(Interrupted) as caught:
        with interrupts.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            finished = True
        pytest.fail("not reached")
    assert finished and caught.value.orderly


def test_a_second_signal_does_not_wait_and_finds_nothing_to_save() -> None:
    interrupts = Interrupts()
    with interrupts.installed(), pytest.raises(Interrupted) as caught, interrupts.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("not reached")
    assert not caught.value.orderly


def test_a_second_signal_after_the_block_may_still_save() -> None:
    interrupts = Interrupts()
    with interrupts.installed():
        with pytest.raises(Interrupted), interrupts.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as caught:
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("not reached")
    assert caught.value.orderly


def test_the_earlier_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts().installed():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
