"""Records outcomes in groups: one commit for many, none of them late.

The outcomes of one message gather on a *sheet*. The handlers' thread records them when there are
many or when the message is done. A thread beside it does so while a handler keeps that one busy,
and hands jobs that have waited too long for their turn to other workers. What a process had not
recorded when it was killed runs again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from django.db import connection

from jobs import conf, transactions
from jobs.errors import JobReleased
from jobs.running import Run
from jobs.shield import leave_to_others
from jobs.values import Outcome, Settled

log = logging.getLogger("jobs.recording")

#: Between two looks of the thread: what is due is recorded at most so much later.
LOOK_SECONDS = 0.01
#: After a try that failed, until the thread tries again.
RETRY_SECONDS = 1.0

Ended = tuple[Run, Outcome]


class Clerk(Protocol):
    """Who carries out what a sheet decides."""

    def record(self, ended: Sequence[Ended], *, patient: bool) -> list[Settled]:
        """Write these outcomes and let go of their leases.

        ``patient``: wait for a database that is away, as long as the settings say. Raises what the
        database raises after that; what could not be written is kept as before, if it was not.
        """

    def released(self, run: Run, reason: JobReleased) -> Outcome:
        """What becomes of a job that is handed back before its turn came."""


class Sheet:
    """The outcomes of one message's jobs, recorded and not yet recorded."""

    def __init__(self, clerk: Clerk, runs: Sequence[Run]) -> None:
        self.settled: dict[Run, Settled] = {}
        self._clerk = clerk
        self._waiting = list(reversed(runs))
        self._running: Run | None = None
        self._began_at: float | None = None
        self._ended: list[Ended] = []
        self._has_writes = False
        self._first_at = 0.0
        self._tend_at = 0.0
        self._changing = threading.Lock()
        # Held while anything is written: the message is not done before that is over.
        self._recording = threading.Lock()

    # -- the handlers' thread

    def next(self) -> Run | None:
        """The run whose turn it is; None when all are over."""
        with self._changing:
            self._running = self._waiting.pop() if self._waiting else None
            self._began_at = self._began_at or time.monotonic()
            return self._running

    def add(self, run: Run, outcome: Outcome) -> None:
        """Note how an attempt ended, and record what is due. Raises what ``Clerk.record`` does."""
        now = time.monotonic()
        with self._changing:
            self._running = None
            self._first_at = self._first_at if self._ended else now
            self._ended.append((run, outcome))
            self._has_writes |= bool(outcome.writes)
            # Writes run in the handler's own thread, whose connections and context they know.
            due = self._has_writes or len(self._ended) >= _most_together()
        if due or not self._waiting or self._is_due(now):
            self.record()

    def record(self, *, patient: bool = True) -> None:
        """Record everything that has ended, and wait for what the other thread is recording.

        The handlers' thread is the ``patient`` one. The other waits for nobody: there are sheets
        beside this one, and the handlers' thread may be in writes that take long.
        """
        if not self._recording.acquire(blocking=patient):
            return
        try:
            with self._changing:
                if self._has_writes and not patient:
                    return
                ended, self._ended = self._ended, []
                self._has_writes = False
            if ended:
                self._carry_out(ended, patient=patient)
        finally:
            self._recording.release()

    def _carry_out(self, ended: list[Ended], *, patient: bool) -> None:
        try:
            settled = self._clerk.record(ended, patient=patient)
        except BaseException:
            with self._changing:
                self._ended = ended + self._ended
                self._has_writes = any(outcome.writes for _, outcome in self._ended)
            raise
        self.settled.update(zip((run for run, _ in ended), settled, strict=True))

    def left(self) -> list[Run]:
        """What is neither recorded nor handed back."""
        with self._changing:
            running = [self._running] if self._running else []
            return [*(run for run, _ in self._ended), *running, *reversed(self._waiting)]

    # -- the recorder's thread

    def needs_tending(self) -> bool:
        """False once nothing is left but what runs now, which is recorded as it ends."""
        with self._changing:
            return bool(self._waiting or self._ended)

    def tend(self, now: float) -> None:
        """Record what is due, and hand back what has waited too long for its turn."""
        if now < self._tend_at:
            return
        self._tend_at = now + RETRY_SECONDS
        if self._hand_back(now) or self._is_due(now):
            # Waiting is for the handlers' thread: its connection may be good where a new one fails.
            self.record(patient=False)
        self._tend_at = now

    def _is_due(self, now: float) -> bool:
        with self._changing:
            if self._has_writes:
                return False
            late = now - self._first_at + 2 * LOOK_SECONDS
            return bool(self._ended) and late > conf.get().group_flush_seconds

    def _hand_back(self, now: float) -> bool:
        with self._changing:
            if self._began_at is None or not self._waiting:
                return False
            if now - self._began_at < conf.get().group_turn_seconds:
                return False
            reason = JobReleased("its neighbours took too long")
            waiting, self._waiting = self._waiting, []
            for run in reversed(waiting):
                run.over = True
                run.ask(reason)
                self._ended.append((run, self._clerk.released(run, reason)))
            return True


def _most_together() -> int:
    settings = conf.get()
    return max(settings.message_limit, settings.group_limit)


class Recorder:
    """The thread that tends the sheets of one process; another one after a fork."""

    def __init__(self) -> None:
        self._sheets: list[Sheet] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.pid = os.getpid()

    def keep(self, sheet: Sheet) -> None:
        """Tend this sheet for as long as there is anything on it that could wait."""
        with self._changed:
            self._sheets.append(sheet)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._loop, name="jobs-recorder", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def _loop(self) -> None:
        leave_to_others()
        while True:
            with self._changed:
                self._sheets = [sheet for sheet in self._sheets if sheet.needs_tending()]
                if not self._sheets:
                    connection.close()
                    self._changed.wait_for(lambda: self._sheets)
                sheets = list(self._sheets)
            for sheet in sheets:
                with transactions.endured(log, "not recorded yet"):
                    sheet.tend(time.monotonic())
            time.sleep(LOOK_SECONDS)
