"""The verbs: submit, claim, doubt, heartbeat, finish, cancel, reopen, rescue.

The only place that locks job rows and opens a transaction over them. Every verb takes many jobs,
one is a batch of one, and every transition goes the same way: lock the rows in id order, check the
edge (django-fsm) and the holder's token, change memory, write all rows in one statement that counts
what it changed. The database's triggers add the audit entry and the outbox row. Facts are told
after commit. Nothing here talks to the broker or to Redis.

Lock order: job rows by id, then what triggers write, then what a completing job's own writes touch.
A verb that loses its connection or a deadlock is run again as a whole, which every verb survives:
ids and tokens are drawn before the first try, so a commit whose answer was lost is recognised
instead of repeated.
"""

from __future__ import annotations

from jobs.lifecycle.changing import cancel, reopen
from jobs.lifecycle.finishing import finish
from jobs.lifecycle.holding import Claim, claim, count_there, doubt, heartbeat
from jobs.lifecycle.rescuing import rescue
from jobs.lifecycle.submitting import submit, submit_together

__all__ = [
    "Claim",
    "cancel",
    "claim",
    "count_there",
    "doubt",
    "finish",
    "heartbeat",
    "reopen",
    "rescue",
    "submit",
    "submit_together",
]
