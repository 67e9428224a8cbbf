"""Runs one verb as one transaction, and again as a whole when the database asks for that."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connection, transaction

from jobs.errors import TransitionError

log = logging.getLogger("jobs.transactions")

T = TypeVar("T")

TRIES = 4
#: Serialization failure, deadlock, and the statement or session having been ended from outside.
_AGAIN = frozenset({"40001", "40P01", "57P01", "57P02", "57P03"})
#: Classes of SQLSTATE that tell of the server's trouble and not of the statement's: connections,
#: and resources such as disk space and free sessions.
_TROUBLE = frozenset({"08", "53"})

#: What Django raises when the database is away, among other things.
AWAY = (InterfaceError, OperationalError)

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 1.0
_LOOK_SECONDS = 0.1


class TryAgain(TransitionError):
    """Raised by a verb whose premise changed under it; the whole verb is run again.

    It passes only when that happened at every try.
    """

    code = "try_again"


def run(work: Callable[[], T], *, single: bool = False) -> T:
    """Run ``work`` in a transaction; retry it whole on a lost connection or a deadlock.

    Inside a caller's ``atomic()`` it is a savepoint, and only the owner of the outer transaction
    can repeat what the database broke off. ``single``: only one statement of it writes, and that is
    a transaction by itself, without two round trips for BEGIN and COMMIT. Raises what the last try
    raised.
    """
    nested = connection.in_atomic_block
    around = nullcontext if single and not nested else transaction.atomic
    for count in range(1, TRIES):
        try:
            with around():
                return work()
        except TryAgain:
            continue
        except AWAY as error:
            if nested or not _worth_a_retry(error):
                raise
            log.warning("database said %s; try %d of %d follows", error, count + 1, TRIES)
            connection.close()
            time.sleep(random.uniform(0, 0.05 * 2**count))  # spreads deadlocked callers apart
    with around():
        return work()


def patiently(
    work: Callable[[], T], seconds: float, *, stop: Callable[[], bool] = lambda: False
) -> T:
    """Run ``work``; while the database is away, wait and run it again, for at most ``seconds``.

    The pauses are at most a second and drawn at random, so that work goes on soon after the
    database is back, and not everywhere at the same moment. Raises what the last try raised, when
    the time is over, or as soon as ``stop`` says so, which is asked ten times a second.
    """
    give_up_at = time.monotonic() + seconds
    pause = _FIRST_PAUSE_SECONDS
    waited = False
    while True:
        try:
            if waited:
                # Cheaper than the work, whose own tries would each write a line, all through the
                # outage.
                connection.ensure_connection()
            return work()
        except AWAY as error:
            if connection.in_atomic_block or time.monotonic() > give_up_at:
                raise
            if not waited:
                log.warning("waiting for the database: %s", str(error).strip())
            connection.close()
            if not _paused(pause, stop):
                raise
        waited = True
        pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)


def _paused(seconds: float, stop: Callable[[], bool]) -> bool:
    """Whether the pause went by without a reason to stop."""
    ends = time.monotonic() + random.uniform(seconds / 2, seconds)
    while not stop():
        left = ends - time.monotonic()
        if left <= 0:
            return True
        time.sleep(min(left, _LOOK_SECONDS))
    return False


@contextmanager
def endured(logger: logging.Logger, what: str) -> Iterator[None]:
    """For a thread that tries again by itself: an error is logged, and costs the connection."""
    try:
        yield
    except AWAY as error:
        logger.warning("%s: %s", what, str(error).strip())
        connection.close()
    except Exception:
        logger.exception(what)
        connection.close()


def is_away(error: BaseException) -> bool:
    """Whether this tells of the database's own trouble, so that the same work may succeed later.

    A statement that took too long or waited too long for a lock is its writer's trouble.
    """
    if not isinstance(error, AWAY):
        return False
    code = getattr(error.__cause__, "pgcode", None)
    return code is None or code in _AGAIN or code[:2] in _TROUBLE


def _worth_a_retry(error: Exception) -> bool:
    code = getattr(error.__cause__, "pgcode", None)
    # A broken connection has no SQLSTATE at all.
    return code is None or code in _AGAIN
