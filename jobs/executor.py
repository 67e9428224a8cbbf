"""One message's jobs: claim them, run each as a chain of small steps, record what became of it.

Handlers run with no transaction open. Only ``_outcome`` maps what happened to an event, and only
``lifecycle`` writes it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

from django.db import InterfaceError, OperationalError, close_old_connections, connection

from jobs import conf, drain, heart, jsontext, lifecycle, policy, registry
from jobs.errors import HandlerSignal, JobReleased, JobsError, PermanentFailure
from jobs.registry import Handler
from jobs.running import Run
from jobs.states import JobEvent
from jobs.values import Attempt, Doorbell, Outcome, Settled

log = logging.getLogger("jobs.executor")

_RECORD_AGAIN_SECONDS = 0.5


class Executor:
    """Runs attempts in this process. Safe to use from several threads."""

    def __init__(self, worker: str, *, may_end_process: bool = False) -> None:
        self.worker = worker
        self._may_end_process = may_end_process
        self._heart: heart.Heart | None = None
        self._lock = threading.Lock()

    def answer(self, doorbells: Sequence[Doorbell]) -> list[Settled]:
        """Run every job that these doorbells rightly announce; returns what was recorded."""
        if connection.in_atomic_block:
            raise RuntimeError("handlers never run inside a transaction")
        # A connection that is kept across messages is asked before use whether it still lives.
        close_old_connections()
        attempts = lifecycle.claim(doorbells, worker=self.worker, handlers=registry.names())
        runs = [Run(attempt, _timeout_seconds(attempt)) for attempt in attempts]
        self._beating().hold(runs)
        settled: list[Settled] = []
        for run in runs:
            settled += self._settle(run)
        return settled

    def _settle(self, run: Run) -> list[Settled]:
        outcome = _attempted(run)
        run.close()
        self._beating().let_go(run)
        settled = self._record(_with_records(outcome, run))
        for one in settled:
            if one.fenced:
                log.warning("job %s: fenced, another worker holds it now", one.job_id)
        return settled

    def _record(self, outcome: Outcome) -> list[Settled]:
        """Finish, with a lease's worth of patience: a database that restarts just now must not
        cost the work that is already done."""
        give_up_at = time.monotonic() + conf.get().lease_seconds
        while True:
            try:
                return lifecycle.finish([outcome], worker=self.worker)
            except (InterfaceError, OperationalError) as error:
                if time.monotonic() > give_up_at:
                    raise
                log.warning("job %s: not recorded yet: %s", outcome.attempt.job_id, error)
                connection.close()
                time.sleep(_RECORD_AGAIN_SECONDS)

    def _beating(self) -> heart.Heart:
        with self._lock:
            if self._heart is None or self._heart.pid != os.getpid():
                self._heart = heart.Heart(
                    self.worker, _verdict, may_end_process=self._may_end_process
                )
            return self._heart


def _attempted(run: Run) -> Outcome:
    attempt = run.claimed
    try:
        spec = registry.get(attempt.handler)
        if drain.seconds_since_stop() is not None:
            raise JobReleased("worker is stopping")
        arguments = spec.arguments(attempt.payload, run)
        with run:
            value = _invoke(spec, arguments, run)
        return Outcome(attempt, JobEvent.SUCCEED, result=_result(spec, value))
    except HandlerSignal as error:
        return _verdict(attempt, run.signal or error)
    except Exception as error:
        _note(run, error)
        return _verdict(attempt, error)
    except BaseException as error:
        # Whatever passed would leave the attempt unfinished and its lease renewed for ever.
        return _verdict(attempt, RuntimeError(f"the handler raised {type(error).__name__}"))


def _invoke(spec: Handler, arguments: dict[str, Any], run: Run) -> Any:
    if not spec.is_async:
        return spec.function(**arguments)

    async def bound() -> Any:
        task = asyncio.current_task()
        if task is not None:
            run.bind(task)
        return await spec.function(**arguments)

    try:
        return asyncio.run(bound())
    except asyncio.CancelledError:
        if run.signal is None:
            raise
        raise run.signal from None


def _result(spec: Handler, value: Any) -> Any:
    limit = spec.result_limit_bytes or conf.get().result_limit_bytes
    try:
        result = registry.jsonable(value)
        size = len(jsontext.dumps(result))
    except ValueError as error:
        raise PermanentFailure(f"the result cannot be stored: {error}") from error
    if size > limit:
        raise PermanentFailure(
            f"the result has {size} bytes of JSON; at most {limit} are allowed:"
            " keep it as an artifact"
        )
    return result


def _verdict(attempt: Attempt, error: BaseException) -> Outcome:
    try:
        backoff = registry.get(attempt.handler).backoff
    except JobsError:
        return heart.default_verdict(attempt, JobReleased("this worker lost its handler"))
    return policy.after_error(attempt, error, backoff, random.random())


def _with_records(outcome: Outcome, run: Run) -> Outcome:
    beat = run.beat()
    return Outcome(
        attempt=outcome.attempt,
        event=outcome.event,
        reason=outcome.reason,
        result=outcome.result,
        artifacts=tuple(run.artifacts),
        lines=beat.lines,
        delay_seconds=outcome.delay_seconds,
    )


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
