"""Handlers that harm the process that runs them. Each must end, and harm nobody else's job.

How each must end is in ``tests.testapp.ends``.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.db import DatabaseError, connection, transaction

from jobs.context import Context
from jobs.errors import PermanentFailure
from jobs.models import Job
from jobs.registry import handler
from jobs.values import Backoff

SOON = Backoff(base_seconds=0.2, jitter=0)
#: Address space that ``poison.memory`` may add to what its process has.
MEMORY_BYTES = 256 * 1024**2
HUGE_BYTES = 50 * 1024**2
#: Longest time that a stuck C call stays stuck where no supervisor ends it.
STUCK_SECONDS = 60.0


@handler("poison.exit", backoff=SOON)
def leaves() -> None:
    """Leave the process without a word. Ends FAILED after ``max_lost_attempts``."""
    os._exit(3)


@handler("poison.kill", backoff=SOON)
def kills_itself() -> None:
    """Kill the process as the kernel would. Ends FAILED after ``max_lost_attempts``."""
    os.kill(os.getpid(), signal.SIGKILL)


@handler("poison.memory", max_attempts=2, backoff=SOON)
def memory() -> int:
    """Allocate until its own limit says no. Ends FAILED with MemoryError, or lost."""
    held = []
    with _limited(MEMORY_BYTES):
        while True:
            held.append(bytearray(8 * 1024**2))


@handler("poison.stuck_in_c", timeout_seconds=1.0, max_attempts=1)
def stuck_in_c() -> None:
    """Wait in C, where no Python exception arrives. Ends FAILED: it ran longer than allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    mutex = ctypes.create_string_buffer(64)
    ends = _Timespec(int(time.time() + STUCK_SECONDS), 0)
    libc.pthread_mutex_init(mutex, None)
    libc.pthread_mutex_lock(mutex)
    # A second lock of a plain mutex waits, and unlike sleep() no signal makes it return.
    libc.pthread_mutex_timedlock(mutex, ctypes.byref(ends))
    raise PermanentFailure("nobody ended the wait in C")


@handler("poison.hold_gil", backoff=SOON)
def hold_gil(seconds: int = 8) -> None:
    """Stop every thread of the process, the heart's too, for longer than a short lease.

    Ends FAILED, lost as often as may be, where the lease is shorter than ``seconds``. A late return
    is refused by its token.
    """
    ctypes.PyDLL(None).sleep(seconds)


@handler("poison.huge_result", backoff=SOON)
def huge_result() -> str:
    """Return 50 MB. Ends FAILED at once: too large a result is permanent."""
    return "x" * HUGE_BYTES


@handler("poison.unserialisable", backoff=SOON)
def unserialisable() -> object:
    """Return what JSON cannot say. Ends FAILED at once."""
    return object()


@handler("poison.memory_error", max_attempts=2, backoff=SOON)
def memory_error() -> None:
    """Raise what an allocation raises. Ends FAILED when its attempts are used up."""
    raise MemoryError("on purpose")


@handler("poison.saves_itself", max_attempts=1)
def saves_itself(*, context: Context) -> int:
    """Try to move its own row past the verbs. Ends COMPLETED: every try was refused."""
    tries = [_save, _update, _skip_a_version]
    for go_past in tries:
        try:
            go_past(context)
        except Exception as error:
            context.log(f"{go_past.__name__}: {type(error).__name__}: {error}")
        else:
            raise PermanentFailure(f"{go_past.__name__} went past the verbs")
    return len(tries)


@handler("poison.leaves_transaction", max_attempts=1)
def leaves_transaction() -> str:
    """Enter a transaction, break it, and go. Ends COMPLETED, which is not lost in it."""
    transaction.atomic().__enter__()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")
    except DatabaseError:
        return "left a broken transaction"
    raise PermanentFailure("the transaction did not break")


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


@contextmanager
def _limited(more_bytes: int) -> Iterator[None]:
    """Bound the address space of this process at ``more_bytes`` above what it has now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _save(context: Context) -> None:
    Job.objects.get(pk=context.job_id).save()


def _update(context: Context) -> None:
    Job.objects.filter(pk=context.job_id).update(state="COMPLETED")


def _skip_a_version(context: Context) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE jobs_job SET state = 'COMPLETED', version = version + 2 WHERE id = %s",
            [context.job_id],
        )
