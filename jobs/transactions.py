"""Runs one verb as one transaction, and again as a whole when the database asks for that."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connection, transaction

from jobs.errors import TransitionError

log = logging.getLogger("jobs.transactions")

T = TypeVar("T")

TRIES = 4
#: Serialization failure, deadlock, and the statement or session having been ended from outside.
_AGAIN = frozenset({"40001", "40P01", "57P01", "57P02", "57P03"})


class TryAgain(TransitionError):
    """Raised by a verb whose premise changed under it; the whole verb is run again.

    It passes only when that happened at every try.
    """

    code = "try_again"


def run(work: Callable[[], T]) -> T:
    """Run ``work`` in a transaction; retry it whole on a lost connection or a deadlock.

    Inside a caller's ``atomic()`` it is a savepoint, and only the owner of the outer transaction
    can repeat what the database broke off. Raises what the last try raised.
    """
    nested = connection.in_atomic_block
    for count in range(1, TRIES):
        try:
            with transaction.atomic():
                return work()
        except TryAgain:
            continue
        except (OperationalError, InterfaceError) as error:
            if nested or not _worth_a_retry(error):
                raise
            log.warning("database said %s; try %d of %d follows", error, count + 1, TRIES)
            connection.close()
            time.sleep(random.uniform(0, 0.05 * 2**count))  # spreads deadlocked callers apart
    with transaction.atomic():
        return work()


def _worth_a_retry(error: Exception) -> bool:
    code = getattr(error.__cause__, "pgcode", None)
    # A broken connection has no SQLSTATE at all.
    return code is None or code in _AGAIN
