"""Signals are held back while the shield is up, whichever thread they reach, and none is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from jobs.shield import SIGNALS, Shield
from tests.marks import until

N = signal.SIGUSR1


class Struck(Exception):
    """What the pool's handlers raise."""


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """The dispositions and the mask of this process are the test runner's again afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    for number, disposition in before.items():
        signal.signal(number, disposition)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.fixture
def struck() -> list[int]:
    """Every signal whose handler has run; each of them raises."""
    found: list[int] = []

    def handler(number: int, _: FrameType | None) -> None:
        found.append(number)
        raise Struck(number)

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, handler)
    return found


def send(*numbers: signal.Signals) -> None:
    """Send these to the main thread: what is sent to the process, a test runner's other threads may
    take in their own time."""
    for number in numbers:
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def test_a_signal_waits_for_the_end_of_the_shield(struck: list[int]) -> None:
    shield = Shield()
    shield.up()
    send(N)
    assert shield.waits
    assert struck == []
    with pytest.raises(Struck):
        shield.down()
    assert struck == [N]
    assert not shield.waits


def test_a_signal_that_another_thread_receives_waits_too(struck: list[int]) -> None:
    """The kernel gives it to any thread that does not block it; Python runs it in the main one."""
    ended = threading.Event()
    bystander = threading.Thread(target=ended.wait, daemon=True)
    bystander.start()
    shield = Shield()
    shield.up()
    try:
        os.kill(os.getpid(), N)
        until(lambda: N in shield._noted, 10)  # the bystander has received it
        assert struck == []
        assert shield.waits
        with pytest.raises(Struck):
            shield.down()
    finally:
        ended.set()
    bystander.join()
    assert struck == [N]


def test_every_signal_is_delivered_although_the_first_one_raises(struck: list[int]) -> None:
    shield = Shield()
    shield.up()
    send(signal.SIGUSR1, signal.SIGTERM)
    with pytest.raises(Struck):
        shield.down()
    assert sorted(struck) == sorted([signal.SIGUSR1, signal.SIGTERM])


def test_outside_of_it_signals_strike_at_once(struck: list[int]) -> None:
    shield = Shield()
    shield.up()
    shield.down()
    with pytest.raises(Struck):
        signal.raise_signal(N)
    shield.up()
    shield.block()
    shield.up()
    shield.block()
    shield.down()
    assert N not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_handler_installed_later_is_held_back_too(struck: list[int]) -> None:
    shield = Shield()
    shield.up()
    shield.down()
    later: list[int] = []
    signal.signal(N, lambda number, _: later.append(number))
    shield.up()
    send(N)
    assert later == []
    shield.down()
    assert later == [N]
    assert struck == []


def test_a_forgotten_signal_never_comes(struck: list[int]) -> None:
    shield = Shield()
    shield.up()
    send(N)
    shield.forget(N)
    shield.down()
    assert struck == []


def test_it_says_whether_the_process_was_told_to_end() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    shield = Shield()
    shield.up()
    send(signal.SIGTERM)
    assert shield.told_to_end is None
    with pytest.raises(SystemExit) as told:
        shield.down()
    assert shield.told_to_end is told.value


def test_other_threads_have_no_use_for_it(struck: list[int]) -> None:
    shield = Shield()
    thread = threading.Thread(target=shield.block)
    thread.start()
    thread.join()
    with pytest.raises(Struck):
        signal.raise_signal(N)


def test_what_another_thread_does_leaves_the_shield_as_it_is(struck: list[int]) -> None:
    """The thread that records beside the handlers' passes the same ways."""
    masks: list[set[int]] = []
    shield = Shield()
    shield.up()

    def record() -> None:
        shield.block()
        masks.append({int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])})
        shield.down()

    thread = threading.Thread(target=record)
    thread.start()
    thread.join()
    assert masks == [set()]
    send(N)
    assert struck == []
    with pytest.raises(Struck):
        shield.down()


def test_what_would_end_the_process_waits_in_the_kernel() -> None:
    program = (
        "import os, signal, sys; from jobs.shield import Shield; s = Shield(); s.block();"
        " os.kill(os.getpid(), signal.SIGTERM); print('alive', flush=True); s.down()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("alive", -signal.SIGTERM)
