"""Waits for the database in a thread, while the caller's own thread prepares what comes next."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self, TypeVar

T = TypeVar("T")


class Beside:
    """Carries out one call after another beside the caller. Leaving it waits for the last one.

    A call may use what belongs to the caller's thread, such as a cursor, as long as the caller
    leaves it alone until the call is done.
    """

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="jobs-beside")
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def start(self, work: Callable[[], T]) -> Future[T]:
        """Begin ``work``, and return when it has begun.

        Not before, because the interpreter's lock would keep it waiting for as long as the caller
        computes, up to ``sys.getswitchinterval()``. The lock is free once it waits for a socket.
        """
        begun = threading.Event()

        def run() -> T:
            begun.set()
            return work()

        future = self._pool.submit(run)
        begun.wait()
        return future
