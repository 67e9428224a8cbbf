"""The heartbeat of one process: one thread that renews every lease the process holds.

It is a thread beside the handlers, so a handler that hogs its own thread still keeps its lease, and
a process that is frozen or gone does not. A handler that keeps Python's interpreter lock to itself
stops this thread too: the lease lapses, and another worker takes the job. The same tick climbs the
ladder by which handlers are stopped: ask, raise inside the handler, and at last end the process.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable

from django.db import connection

from jobs import conf, drain, lifecycle, policy, transactions
from jobs.errors import HandlerSignal, JobCancelled, JobReleased, JobTimeout
from jobs.hosts import Host
from jobs.running import INTERRUPTS, Run
from jobs.shield import leave_to_others
from jobs.values import Attempt, Backoff, Outcome

log = logging.getLogger("jobs.heart")

#: Decides what becomes of an attempt whose handler could not be stopped.
Verdict = Callable[[Attempt, HandlerSignal], Outcome]


class Heart:
    """Beats while anything is held; sleeps otherwise. One per process, also after a fork."""

    def __init__(self, worker: str, verdict: Verdict, host: Host) -> None:
        self._worker = worker
        self._verdict = verdict
        self._host = host
        self._runs: dict[Run, None] = {}
        self._unsettled: set[Run] = set()
        self._changed = threading.Condition()
        self._beating = threading.Lock()
        self._thread: threading.Thread | None = None
        self.pid = os.getpid()

    def hold(self, runs: list[Run]) -> None:
        """Keep these attempts' leases from now on. They are one message's, in their order."""
        group = tuple(runs)
        for run in group:
            run.group = group
        with self._changed:
            self._unsettled.update(runs)
        self.keep(runs)

    def keep(self, runs: Iterable[Run]) -> None:
        """Renew these leases from now on, after they were let go for nothing."""
        with self._changed:
            self._runs.update(dict.fromkeys(runs))
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="jobs-heart", daemon=True)
                self._thread.start()
            self._changed.notify()

    def let_go(self, runs: Iterable[Run]) -> None:
        """Stop keeping these leases; returns when no beat of them is under way any more."""
        with self._changed:
            for run in runs:
                self._runs.pop(run, None)
        with self._beating:
            pass

    def settled(self, runs: Iterable[Run]) -> None:
        """It is recorded what became of these attempts, or nobody will."""
        with self._changed:
            for run in runs:
                self._runs.pop(run, None)
                self._unsettled.discard(run)
                # It is in its own group: only the garbage collector would find it, much later.
                run.group = ()

    def is_busy(self) -> bool:
        """Whether any attempt still needs this process."""
        with self._changed:
            return any(not run.over for run in self._unsettled)

    def _loop(self) -> None:
        leave_to_others()
        while True:
            with self._changed:
                if not self._runs:
                    connection.close()
                while not self._runs:
                    self._changed.wait()
            time.sleep(conf.get().heartbeat_seconds)
            self._tick()

    def _tick(self) -> None:
        with self._changed:
            runs = list(self._runs)
        # A beat that fails costs nothing until the lease lapses; the next one may succeed. What
        # needs no database, such as a timeout, goes on meanwhile.
        with transactions.endured(log, "heartbeat failed"):
            self._beat(runs)
        for run in runs:
            with transactions.endured(log, "heartbeat failed"):
                self._climb(run)

    def _beat(self, runs: list[Run]) -> None:
        with self._beating:
            with self._changed:
                runs = [run for run in runs if run in self._runs]
            beats = [run.beat() for run in runs]
            try:
                pulses = lifecycle.heartbeat(beats)
            except Exception:
                for run, beat in zip(runs, beats, strict=True):
                    run.give_back(beat)
                raise
        for run, pulse in zip(runs, pulses, strict=True):
            if not pulse.held:
                run.ask(JobReleased("another worker holds the job now"))
            elif pulse.cancel_requested:
                run.ask(JobCancelled("cancelled on request"))

    def _climb(self, run: Run) -> None:
        if run.ended or run.over:
            return
        settings = conf.get()
        waited = drain.seconds_since_stop()
        run.draining = waited is not None
        if run.ran_seconds() > run.timeout_seconds:
            run.ask(JobTimeout(f"ran longer than {run.timeout_seconds:g} s"))
        elif waited is not None and (run.began_at is None or waited > settings.drain_grace_seconds):
            run.ask(JobReleased("worker is stopping"))
        if run.asked_at is None or run.signal is None:
            return
        if run.will_not_begin():
            self._settle(run, self._verdict(run.claimed, run.signal))
            return
        # By what was done and not by the time alone: a slow database makes ticks rare, and no step
        # may be left out.
        now, grace = time.monotonic(), settings.stop_grace_seconds
        if run.interrupted_at is not None and now - run.interrupted_at > grace:
            self._end(run, run.signal)
        elif now - run.asked_at > grace:
            run.interrupt(grace / INTERRUPTS)

    def _settle(self, run: Run, outcome: Outcome) -> None:
        """Record the end of an attempt from here; its own thread finds that recorded."""
        lifecycle.finish([outcome], worker=self._worker)
        run.over = True
        with self._changed:
            self._runs.pop(run, None)

    def _end(self, run: Run, reason: HandlerSignal) -> None:
        """The handler cannot be stopped: record what is true, then take its process away."""
        log.error("job %s ignores %s; its attempt is ended", run.job_id, reason.code)
        outcome = self._verdict(run.claimed, reason)
        self._settle(run, outcome._replace(lines=run.beat().lines))
        if not self._host.ends:
            return
        release = JobReleased("a neighbour's process had to be ended")
        for other in run.group:
            other.ask(release)
            if other.will_not_begin() and not other.over:
                self._settle(other, default_verdict(other.claimed, release))
        self._host.end(self.is_busy)


def default_verdict(attempt: Attempt, reason: HandlerSignal) -> Outcome:
    """The verdict without a handler's own backoff, for an attempt that cannot be stopped."""
    return policy.after_error(attempt, reason, Backoff(), 0.0)
