"""How many jobs one owner may have waiting, so that one client's flood stays its own trouble.

A bound on resources, not on correctness: it is looked at before the transaction, and what others
submit for the same owner at the same moment may exceed it a little. It holds for HTTP alone; code
of the project itself, the admin included, is trusted to know what it does.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from django.db import connection
from rest_framework.exceptions import Throttled

from jobs import conf
from jobs.models import IdempotencyKey

#: A count is believed for so long, while it leaves this share of the limit free.
_BELIEVED_SECONDS = 1.0
_FREE_SHARE = 0.1
#: When to come back; how fast the queue drains is not known here.
_RETRY_AFTER_SECONDS = 10
_MOST_OWNERS = 10_000

#: An index-only scan of ``jobs_job_owned_pending`` that ends at the limit.
_COUNT = """
SELECT count(*) FROM (
    SELECT FROM jobs_job WHERE owner_id = %(owner)s AND state = 'PENDING' LIMIT %(most)s
) AS waiting
"""


class QuotaExceeded(Throttled):
    """The owner has as many waiting jobs as one owner may have. Nothing was accepted."""

    default_code = "quota_exceeded"


@dataclass(slots=True)
class _Room:
    left: int
    until: float


_lock = threading.Lock()
_rooms: OrderedDict[int, _Room] = OrderedDict()


def require(owner_id: int, count: int, first_key: str | None) -> None:
    """Let ``count`` more jobs pass. Raises QuotaExceeded if they would be too many.

    A request that was accepted before (``first_key`` is known) passes: it adds nothing.
    """
    limit = conf.get().pending_limit_per_owner
    if limit is None or _taken_from_room(owner_id, count, limit):
        return
    left = limit - _waiting(owner_id, limit)
    if left < count and not _is_repetition(owner_id, first_key):
        text = f"You may have {limit} waiting jobs, and {max(left, 0)} more fit in now."
        raise QuotaExceeded(wait=_RETRY_AFTER_SECONDS, detail=text)
    with _lock:
        _rooms[owner_id] = _Room(left - count, time.monotonic() + _BELIEVED_SECONDS)
        _rooms.move_to_end(owner_id)
        while len(_rooms) > _MOST_OWNERS:
            _rooms.popitem(last=False)


def forget() -> None:
    """Forget what this process has counted."""
    with _lock:
        _rooms.clear()


def _taken_from_room(owner_id: int, count: int, limit: int) -> bool:
    with _lock:
        room = _rooms.get(owner_id)
        if room is None or room.until < time.monotonic():
            return False
        room.left -= count
        return room.left >= limit * _FREE_SHARE


def _waiting(owner_id: int, limit: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, {"owner": owner_id, "most": limit})
        (count,) = cursor.fetchone()
    return int(count)


def _is_repetition(owner_id: int, first_key: str | None) -> bool:
    own = IdempotencyKey.objects.filter(owner_id=owner_id)
    return first_key is not None and own.filter(key=first_key).exists()
