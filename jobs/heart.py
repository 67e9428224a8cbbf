"""The heartbeat of one process: one thread that renews every lease the process holds.

It is a thread beside the handlers, so a handler that hogs its own thread still keeps its lease, and
a process that is frozen or gone does not. The same tick climbs the ladder by which handlers are
stopped: ask, raise inside the handler, and at last end the process, if a supervisor replaces it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from django.db import connection

from jobs import conf, drain, lifecycle, policy
from jobs.errors import HandlerSignal, JobCancelled, JobReleased, JobTimeout
from jobs.running import Run
from jobs.values import Attempt, Backoff, Outcome

log = logging.getLogger("jobs.heart")

#: Decides what becomes of an attempt whose handler could not be stopped.
Verdict = Callable[[Attempt, HandlerSignal], Outcome]


class Heart:
    """Beats while anything is held; sleeps otherwise. One per process, also after a fork."""

    def __init__(self, worker: str, verdict: Verdict, *, may_end_process: bool) -> None:
        self._worker = worker
        self._verdict = verdict
        self._may_end_process = may_end_process
        self._runs: dict[object, Run] = {}
        self._changed = threading.Condition()
        self._beating = threading.Lock()
        self._thread: threading.Thread | None = None
        self.pid = os.getpid()

    def hold(self, runs: list[Run]) -> None:
        """Keep these attempts' leases from now on."""
        with self._changed:
            self._runs.update((run.token, run) for run in runs)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="jobs-heart", daemon=True)
                self._thread.start()
            self._changed.notify()

    def let_go(self, run: Run) -> None:
        """Stop keeping this lease; returns when no beat of it is under way any more."""
        with self._changed:
            self._runs.pop(run.token, None)
        with self._beating:
            pass

    def _loop(self) -> None:
        while True:
            with self._changed:
                if not self._runs:
                    connection.close()
                while not self._runs:
                    self._changed.wait()
            time.sleep(conf.get().heartbeat_seconds)
            try:
                self._tick()
            except Exception:
                # A beat that fails costs nothing until the lease lapses; the next one may succeed.
                log.exception("heartbeat failed")
                connection.close()

    def _tick(self) -> None:
        with self._beating:
            with self._changed:
                runs = list(self._runs.values())
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
            self._climb(run)

    def _climb(self, run: Run) -> None:
        settings = conf.get()
        waited = drain.seconds_since_stop()
        run.draining = waited is not None
        if run.ran_seconds() > run.timeout_seconds:
            run.ask(JobTimeout(f"ran longer than {run.timeout_seconds:g} s"))
        elif waited is not None and waited > settings.drain_grace_seconds:
            run.ask(JobReleased("worker is stopping"))
        if run.asked_at is None or run.signal is None:
            return
        ignored = time.monotonic() - run.asked_at
        if ignored > 2 * settings.stop_grace_seconds:
            self._end(run, run.signal)
        elif ignored > settings.stop_grace_seconds:
            run.interrupt()

    def _end(self, run: Run, reason: HandlerSignal) -> None:
        """The handler cannot be stopped: record what is true, then take its process away."""
        log.error("job %s ignores %s; its attempt is ended", run.job_id, reason.code)
        lifecycle.finish([self._verdict(run.claimed, reason)], worker=self._worker)
        with self._changed:
            self._runs.pop(run.token, None)
            waiting = [other for other in self._runs.values() if other.began_at is None]
        if self._may_end_process:
            release = JobReleased("a neighbour's process had to be ended")
            lifecycle.finish(
                [default_verdict(other.claimed, release) for other in waiting], worker=self._worker
            )
            os.kill(os.getpid(), signal.SIGKILL)


def default_verdict(attempt: Attempt, reason: HandlerSignal) -> Outcome:
    """The verdict without a handler's own backoff, for an attempt that cannot be stopped."""
    return policy.after_error(attempt, reason, Backoff(), 0.0)
