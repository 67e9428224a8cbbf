"""One message's jobs: claim them, run one after another, record in groups what became of them.

Handlers run with no transaction open. Only ``_attempted`` maps what happened to an event, and only
``lifecycle`` writes it. Signals reach handlers and nothing else: a shield is up all the time but
then. Whatever goes wrong leaves no lease behind that is renewed for nobody.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar
from uuid import UUID

from django.db import connection

from jobs import conf, connections, drain, heart, lifecycle, policy, registry, transactions
from jobs.calling import result_of
from jobs.errors import HandlerSignal, JobReleased, JobsError
from jobs.hosts import Host
from jobs.pace import Pace
from jobs.recording import Ended, Recorder, Sheet
from jobs.running import Run
from jobs.states import JobEvent
from jobs.values import Attempt, Beat, Doorbell, Outcome, Settled

log = logging.getLogger("jobs.executor")

T = TypeVar("T")

#: How long a supervisor may take from the first of its signals to the last.
_SIGNALS_APART_SECONDS = 1.0
_LOOK_SECONDS = 0.02
#: Between looks for a job whose doorbell came early. Together twice as long as such a doorbell
#: takes to count, at least (``doorbells.EARLY_SECONDS``).
_LOOKS_APART_SECONDS = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064)


class Executor:
    """Runs attempts in this process. Safe to use from several threads."""

    def __init__(self, worker: str, host: Host | None = None) -> None:
        self.worker = worker
        self._host = host or Host()
        self._heart: heart.Heart | None = None
        self._recorder: Recorder | None = None
        self._pace = Pace()
        self._lock = threading.Lock()

    def answer(
        self, doorbells: Sequence[Doorbell], *, redelivered: bool = False, early: bool = False
    ) -> list[Settled]:
        """Run every job that these doorbells rightly announce; returns what was recorded.

        ``redelivered``: the broker lost sight of somebody who had this message before, so what
        runs already is doubted. ``early``: jobs that are not there may come in a moment, and are
        waited for. Waits while the database is away, at most ``claim_patience_seconds``, and then
        leaves the jobs to the reconciler. Raises drain.Stopping if the worker is stopping before
        anything was claimed.
        """
        if connection.in_atomic_block and not self._host.ends:
            raise RuntimeError("handlers never run inside a transaction")
        self._host.block_signals()
        try:
            # A connection that is kept across messages is asked before use if it still lives.
            connections.refresh()
            settled = self._answer(doorbells, redelivered=redelivered)
            left = _others(doorbells, (one.job_id for one in settled)) if early else []
            if left and _came(left):
                settled += self._answer(left, redelivered=False)
            return settled
        finally:
            self._host.lower_shield()

    def _answer(self, doorbells: Sequence[Doorbell], *, redelivered: bool) -> list[Settled]:
        runs: list[Run] = []
        sheet: Sheet | None = None
        try:
            self._claim(doorbells, runs)
            if redelivered:
                self._doubt(doorbells, runs)
            sheet = Sheet(self, runs)
            self._work_off(sheet, many=len(runs) > 1)
        finally:
            self._give_back(sheet.left() if sheet else runs)
        return [sheet.settled[run] for run in runs]

    def _work_off(self, sheet: Sheet, *, many: bool) -> None:
        if many:
            self._recording().keep(sheet)
        while (run := sheet.next()) is not None:
            sheet.add(run, self._ended(run))
            if self._host.told_to_end is not None:
                # A process that was told to end records its attempts, and goes.
                sheet.record()
                raise self._host.told_to_end
        sheet.record()

    def _claim(self, doorbells: Sequence[Doorbell], runs: list[Run]) -> None:
        claim = lifecycle.Claim(doorbells, worker=self.worker, handlers=registry.names())

        def must_stop() -> bool:
            return _is_stopping() or self._host.signal_waits

        try:
            attempts = transactions.patiently(
                claim, conf.get().claim_patience_seconds, stop=must_stop
            )
        except transactions.AWAY as error:
            if must_stop():
                raise drain.Stopping("worker is stopping") from error
            log.error("nothing claimed, the reconciler will ring again: %s", error)
            return
        runs += [Run(attempt, _timeout_seconds(attempt)) for attempt in attempts]
        self._beating().hold(runs)

    def _doubt(self, doorbells: Sequence[Doorbell], runs: list[Run]) -> None:
        try:
            lifecycle.doubt(_others(doorbells, (run.job_id for run in runs)))
        except transactions.AWAY as error:
            # It only makes a rescue sooner.
            log.warning("not doubted: %s", error)

    def _ended(self, run: Run) -> Outcome:
        outcome = self._attempted(run)
        self._host.raise_shield()
        self._tidy()
        if outcome.event is JobEvent.SUCCEED:
            self._pace.note(run.handler, run.ran_seconds())
        return outcome

    def record(self, ended: Sequence[Ended], *, patient: bool) -> list[Settled]:
        """Write these outcomes and let go of their leases; part of ``Clerk``.

        Patient, because a database that restarts just now must not cost the work that is already
        done. If a lease lapses meanwhile, whoever comes first afterwards has the job.
        """
        self._host.block_signals()
        runs = [run for run, _ in ended]
        self._beating().let_go(runs)
        beats = [run.beat() for run in runs]
        try:
            settled = self._finished(
                [
                    _with_records(outcome, run, beat)
                    for (run, outcome), beat in zip(ended, beats, strict=True)
                ],
                patient=patient,
            )
        except BaseException:
            for run, beat in zip(runs, beats, strict=True):
                run.give_back(beat)
            if not patient:
                self._beating().keep(runs)
            raise
        self._beating().settled(runs)
        self._pace.tell()
        for one in settled:
            if one.fenced:
                log.warning("job %s: fenced, another worker holds it now", one.job_id)
        return settled

    def released(self, run: Run, reason: JobReleased) -> Outcome:
        """The outcome of a job that is handed back before its turn; part of ``Clerk``."""
        return heart.default_verdict(run.claimed, reason)

    def _tidy(self) -> None:
        self._host.tidy()
        connections.tidy()

    def _attempted(self, run: Run) -> Outcome:
        attempt = run.claimed
        if _is_stopping():
            run.ask(JobReleased("worker is stopping"))
        try:
            spec = registry.get(attempt.handler)
            result = self._exposed(lambda: run.inside(lambda: result_of(spec, run)))
        except HandlerSignal as error:
            return _verdict(attempt, run.signal or _uncaught(error))
        except BaseException as error:
            # Whatever passed would leave the attempt unfinished and its lease renewed for ever.
            if self._host.told_to_end is not None and _stops_soon():
                return _verdict(attempt, JobReleased("worker is stopping"))
            if isinstance(error, Exception):
                _note(run, error)
                return _verdict(attempt, error)
            return _verdict(attempt, _uncaught(error))
        return Outcome(attempt, JobEvent.SUCCEED, result=result, writes=tuple(run.writes))

    def _exposed(self, work: Callable[[], T]) -> T:
        try:
            self._host.lower_shield()
            return work()
        finally:
            self._host.raise_shield()

    def _finished(self, outcomes: Sequence[Outcome], *, patient: bool = True) -> list[Settled]:
        def finish() -> list[Settled]:
            return lifecycle.finish(outcomes, worker=self.worker)

        settings = conf.get()
        patience = max(settings.lease_seconds, settings.claim_patience_seconds)
        if patient:
            settled = transactions.patiently(finish, patience, stop=_must_have_stopped)
        else:
            settled = finish()
        return [self._resolved(*pair) for pair in zip(outcomes, settled, strict=True)]

    def _resolved(self, outcome: Outcome, settled: Settled) -> Settled:
        """What became of an attempt in the end, also where its writes have refused it."""
        if settled.error is None:
            return settled
        log.info("job %s: not completed: %s", settled.job_id, policy.described(settled.error))
        error = settled.error if isinstance(settled.error, Exception) else _uncaught(settled.error)
        verdict = _verdict(outcome.attempt, error)
        [resolved] = self._finished([verdict._replace(lines=outcome.lines)])
        return resolved

    def _give_back(self, runs: list[Run]) -> None:
        """What an error has kept from being run or recorded: released if possible, else its lease
        lapses, because nobody renews it any more."""
        if not runs:
            return
        self._host.block_signals()
        self._beating().let_go(runs)
        release = JobReleased("the worker could not run it")
        waiting = [run for run in runs if run.began_at is None]
        try:
            outcomes = [heart.default_verdict(run.claimed, release) for run in waiting]
            lifecycle.finish(outcomes, worker=self.worker)
        except Exception as error:
            log.warning("not handed back, their leases will lapse: %s", error)
        self._beating().settled(runs)

    def _recording(self) -> Recorder:
        with self._lock:
            if self._recorder is None or self._recorder.pid != os.getpid():
                self._recorder = Recorder()
            return self._recorder

    def _beating(self) -> heart.Heart:
        with self._lock:
            if self._heart is None or self._heart.pid != os.getpid():
                self._heart = heart.Heart(self.worker, _verdict, self._host)
            return self._heart


def _others(doorbells: Sequence[Doorbell], job_ids: Iterable[UUID]) -> list[Doorbell]:
    known = set(job_ids)
    return [bell for bell in doorbells if bell.job_id not in known]


def _came(doorbells: Sequence[Doorbell]) -> bool:
    """Whether some of these jobs are there, waited for until their doorbells count no more."""
    job_ids = {bell.job_id for bell in doorbells}
    count = 0
    log.info("%d doorbells came too early, or not for the first time", len(job_ids))
    try:
        for seconds in _LOOKS_APART_SECONDS:
            time.sleep(seconds)
            if (count := lifecycle.count_there(job_ids)) == len(job_ids):
                break
    except transactions.AWAY as error:
        log.error("jobs not looked for, the reconciler will ring again: %s", error)
    if not count:
        log.info("no job came after its doorbell")
    return count > 0


def _is_stopping() -> bool:
    return drain.seconds_since_stop() is not None


def _stops_soon() -> bool:
    """Whether the worker is stopping too, or only this process was told to end.

    A supervisor that signals a whole group reaches them all within a moment. A process that was
    picked alone, by the handler itself perhaps, must not hand its job back for nothing, for ever.
    """
    ends = time.monotonic() + _SIGNALS_APART_SECONDS
    while not _is_stopping() and time.monotonic() < ends:
        time.sleep(_LOOK_SECONDS)
    return _is_stopping()


def _must_have_stopped() -> bool:
    """Whether a stopping worker has used up all the time that handlers get to stop."""
    settings = conf.get()
    waited = drain.seconds_since_stop()
    return waited is not None and (
        waited > settings.drain_grace_seconds + 2 * settings.stop_grace_seconds
    )


def _uncaught(error: BaseException) -> RuntimeError:
    return RuntimeError(f"the handler raised {type(error).__name__}")


def _with_records(outcome: Outcome, run: Run, beat: Beat) -> Outcome:
    if not (run.artifacts or beat.lines):
        return outcome
    return outcome._replace(artifacts=tuple(run.artifacts), lines=beat.lines)


def _verdict(attempt: Attempt, error: BaseException) -> Outcome:
    try:
        backoff = registry.get(attempt.handler).backoff
    except JobsError:
        return heart.default_verdict(attempt, JobReleased("this worker lost its handler"))
    return policy.after_error(attempt, error, backoff, random.random())


def _note(run: Run, error: Exception) -> None:
    """Leave the traceback in the job's own log, where its owner can read it."""
    if not isinstance(error, JobsError):
        lines = traceback.format_exception(error)
        run.log("".join(lines[-12:]).strip(), level="error")
    log.info("job %s attempt %d: %s", run.job_id, run.attempt, policy.described(error))


def _timeout_seconds(attempt: Attempt) -> float:
    try:
        spec = registry.get(attempt.handler)
    except JobsError:
        return conf.get().timeout_seconds
    return spec.timeout_seconds or conf.get().timeout_seconds
