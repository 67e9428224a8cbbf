"""Other sessions for race tests: threads with a connection of their own, awaited by signals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from django.db import connection

T = TypeVar("T")

PATIENCE_SECONDS = 60.0


class Rival(Generic[T]):
    """Runs ``work`` in a thread with a database session of its own."""

    def __init__(self, work: Callable[[], T], *, connects: bool = True) -> None:
        """``connects``: begin the session before the work, to be able to watch it."""
        self._work = work
        self._connects = connects
        self._answer: T | None = None
        self._error: BaseException | None = None
        self._connected = threading.Event()
        self._pid = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            if self._connects:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_backend_pid()")
                    [self._pid] = cursor.fetchone()
            self._connected.set()
            self._answer = self._work()
        except BaseException as error:  # told by ``answer`` in the test's own thread
            self._error = error
        finally:
            self._connected.set()
            connection.close()

    def wait_until_blocked(self) -> None:
        """Returns once the rival waits for a lock that another session holds."""
        assert self._connected.wait(PATIENCE_SECONDS)
        until(lambda: self._is_blocked() or not self._thread.is_alive())
        assert self._thread.is_alive(), f"the rival never waited: {self._error}"

    def _is_blocked(self) -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", [self._pid])
            return bool(cursor.fetchone()[0])

    def answer(self) -> T:
        """What ``work`` returned; raises what it raised."""
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the rival still waits"
        if self._error is not None:
            raise self._error
        return self._answer  # type: ignore[return-value]  # set unless an error was


def race(*works: Callable[[], T]) -> list[T]:
    """Run all at the same moment, each in a session of its own; answers in the order given."""
    start = threading.Barrier(len(works))

    def at_once(work: Callable[[], T]) -> Callable[[], T]:
        def run() -> T:
            start.wait(PATIENCE_SECONDS)
            return work()

        return run

    rivals = [Rival(at_once(work)) for work in works]
    return [rival.answer() for rival in rivals]


def until(true: Callable[[], Any]) -> None:
    """Look until it is true; fails after a time that no healthy run needs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


@contextmanager
def running(work: Callable[[], T]) -> Iterator[Rival[T]]:
    """Something that runs beside the block; its error, if any, is the test's."""
    rival = Rival(work)
    yield rival
    rival.answer()
