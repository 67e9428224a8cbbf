"""Notices that a worker should get work and does not, and does something about it.

Brokers and their clients have many ways to leave a process alive, connected and deaf. So nothing of
that is trusted: a thread beside the worker's main loop compares what waits with what arrives. Only
when jobs wait in the database *and* their doorbells lie in the broker, asked on a connection of its
own, *and* this worker has a free slot and hears nothing, the worker is deaf. First its consumer is
rebuilt; if that does not help, the process ends with an error for its supervisor to see.

Time counts only while the thread itself runs: after SIGCONT, or on a machine that slept, nobody
is judged for the time in between. No clock but the monotonic one is read.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Protocol

from django.db import Error, connection
from django.db.models.functions import Now

from jobs import conf, drain, presence, topology
from jobs.models import Job
from jobs.states import JobState

log = logging.getLogger("jobs.watchdog")

#: Looks per second at the worker itself, which cost next to nothing.
LOOK_SECONDS = 1.0
#: The outside is asked this many times within ``deaf_seconds``.
QUESTIONS = 3
#: One question may meet a doorbell on its way. Two in a row with nothing heard between cannot.
SURE = 2
#: What an ordered stop may take beyond the time that handlers have, before it is cut short.
STOP_MARGIN_SECONDS = 10.0


class Worker(Protocol):
    """What the watchdog sees of a worker's main process, and the little it may do to it.

    Every method is called from the watchdog's thread, and none may wait for the main thread.
    """

    def heard(self) -> int:
        """How many messages have arrived so far."""

    def begun(self) -> int:
        """How many of them a child has begun."""

    def has_free_slot(self) -> bool:
        """Whether a doorbell could be answered at once."""

    def hoards(self) -> bool:
        """Whether it holds doorbells that no child has begun."""

    def is_listening(self) -> bool:
        """Whether it is connected and consuming, as far as it knows."""

    def pulse(self) -> float | None:
        """When its main loop last showed life (monotonic); None if it cannot, by design."""

    def rebuild(self) -> None:
        """Make it connect and consume anew."""

    def hurry(self) -> None:
        """Make its main loop look whether it is asked to stop."""

    def stop_with_error(self) -> None:
        """Ask it to stop in order, and to exit with an error."""


class Patience:
    """Adds up for how long something has been wrong without a break."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def add(self, seconds: float, *, wrong: bool) -> float:
        """Count these seconds, or begin anew if nothing is wrong; returns the sum."""
        self.seconds = self.seconds + seconds if wrong else 0.0
        return self.seconds


class Question:
    """Asks database and broker in a thread of its own: a frozen server may never answer."""

    def __init__(self, queues: Sequence[str]) -> None:
        self.is_reachable = self.work_waits = False
        self._thread = threading.Thread(target=self._ask, args=(queues,), daemon=True)
        self._thread.start()

    def is_open(self) -> bool:
        """Whether it is still being asked."""
        return self._thread.is_alive()

    def _ask(self, queues: Sequence[str]) -> None:
        ready = topology.count_ready(queues)
        self.is_reachable = ready is not None
        self.work_waits = bool(ready) and jobs_wait(queues)


class Watchdog:
    """One thread in a worker's main process, from its first connect to its end."""

    def __init__(self, worker: Worker, queues: Sequence[str]) -> None:
        self._worker = worker
        self._queues = list(queues)
        self._deaf_seconds = conf.get().deaf_seconds
        self._look_seconds = min(LOOK_SECONDS, self._deaf_seconds / QUESTIONS)
        self._noticed = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._loop, name="jobs-watchdog", daemon=True)
        self._heard = self._begun = -1
        self._pulse: float | None = None
        self._rebuilt = False
        self._question: Question | None = None
        self._begin_anew()

    def start(self) -> None:
        """The first look is at once, for supervisors that ask early."""
        self._noticed.set()
        self._thread.start()

    def notice(self) -> None:
        """Look at once. May be called by a signal handler of the main thread, and only there:
        an event's lock is not one that a thread may take twice."""
        self._noticed.set()

    def stop(self) -> None:
        """End the thread."""
        self._ended = True
        self._noticed.set()
        self._thread.join(timeout=1)
        presence.forget_beat("worker")

    def _loop(self) -> None:
        looked_at = time.monotonic()
        while not self._ended:
            self._noticed.wait(self._look_seconds)
            self._noticed.clear()
            now = time.monotonic()
            try:
                self.look(now - looked_at)
            except Exception:
                # A watchdog that dies of a surprise would be the first thing that nobody sees.
                log.exception("one look failed")
            looked_at = now

    def look(self, seconds: float) -> None:
        """One look, ``seconds`` after the last one."""
        if drain.seconds_since_stop() is not None:
            self._watch_the_stop()
            return
        self._say_how_it_is()
        if seconds > 3 * self._look_seconds:
            self._begin_anew()
            return
        self._blocked.add(seconds, wrong=self._stands_still())
        self._idle.add(seconds, wrong=self._is_idle())
        self._unasked += seconds
        if wrong := self._symptom():
            self._act(wrong)
        elif self._well.add(seconds, wrong=True) > 3 * self._deaf_seconds:
            self._rebuilt = False

    def _begin_anew(self) -> None:
        self._blocked, self._idle, self._well = Patience(), Patience(), Patience()
        self._unasked = self._deaf_seconds
        self._sure = 0
        self._question = None

    def _stands_still(self) -> bool:
        pulse, before = self._worker.pulse(), self._pulse
        self._pulse = pulse
        return pulse is not None and pulse == before

    def _is_idle(self) -> bool:
        """It could do more, and nothing has happened since the last look."""
        heard, begun = self._worker.heard(), self._worker.begun()
        moved = (heard, begun) != (self._heard, self._begun)
        if begun != self._begun:
            # To hear is not enough: what nobody begins is delivered again after every rebuild.
            self._rebuilt = False
        self._heard, self._begun = heard, begun
        if moved:
            self._sure = 0
        return not moved and self._worker.has_free_slot()

    def _symptom(self) -> str:
        """What is wrong with the worker, in words; empty if nothing is or nobody can tell."""
        blocked = self._blocked.seconds >= self._deaf_seconds
        idle = self._idle.seconds >= self._deaf_seconds
        if idle and self._worker.hoards():
            return "its children do not begin what it holds"
        if not (blocked or idle):
            self._sure, self._question = 0, None
            return ""
        self._ask(blocked=blocked)
        if self._sure < SURE:
            return ""
        return "its main loop stands still" if blocked else "jobs wait, and it hears nothing"

    def _ask(self, *, blocked: bool) -> None:
        """Ask the outside now and then, and count the answers in a row that speak against it."""
        if self._question is None:
            if self._unasked >= self._deaf_seconds / QUESTIONS:
                self._question, self._unasked = Question(self._queues), 0.0
        elif not self._question.is_open():
            asked, self._question = self._question, None
            speaks_against = asked.is_reachable if blocked else asked.work_waits
            self._sure = self._sure + 1 if speaks_against else 0

    def _act(self, wrong: str) -> None:
        self._begin_anew()
        _say_where_everybody_is()
        if not self._rebuilt:
            self._rebuilt = True
            log.error("this worker is deaf: %s; its consumer is rebuilt", wrong)
            self._worker.rebuild()
            return
        log.critical("this worker stays deaf: %s; it ends for its supervisor", wrong)
        drain.stop()
        self._worker.stop_with_error()

    def _watch_the_stop(self) -> None:
        """Wake the main loop, which may sleep for seconds; cut short what does not end."""
        presence.beat("worker", ready=False, note="stopping")
        self._worker.hurry()
        settings = conf.get()
        bound = settings.drain_grace_seconds + 2 * settings.stop_grace_seconds + STOP_MARGIN_SECONDS
        if (drain.seconds_since_stop() or 0.0) > bound:
            log.critical("the stop takes longer than %g s: this process is cut short", bound)
            _say_where_everybody_is()
            logging.shutdown()
            os._exit(1)

    def _say_how_it_is(self) -> None:
        listening = self._worker.is_listening()
        note = "listening" if listening else "not connected to the broker"
        ready = listening and not self._sure
        presence.beat("worker", ready=ready, note=note, at=self._worker.pulse())


def _say_where_everybody_is() -> None:
    """The stacks of all threads, to the log's end: what a person would ask for next."""
    if sys.__stderr__ is not None:
        with suppress(OSError, ValueError):
            faulthandler.dump_traceback(sys.__stderr__)


def jobs_wait(queues: Sequence[str]) -> bool:
    """Whether jobs of these queues are due for longer than ``deaf_seconds``; False in doubt.

    On a connection of this moment's own: the main process forks, and a child must not inherit one.
    """
    edge = Now() - timedelta(seconds=conf.get().deaf_seconds)
    waiting = Job.objects.filter(state=JobState.PENDING, queue__in=list(queues), due_at__lt=edge)
    try:
        return bool(waiting.exists())
    except Error as error:
        log.warning("cannot ask whether jobs wait: %s", error)
        return False
    finally:
        connection.close()
