"""The Celery side of a worker: unwrap a doorbell, answer it, acknowledge by returning."""

from __future__ import annotations

import logging
import os
import socket
from functools import cache
from typing import Any

from celery import shared_task, signals
from celery.exceptions import Reject

from jobs import doorbells, drain
from jobs.executor import Executor
from jobs.presence import PresenceThread, name_of_this_process

log = logging.getLogger("jobs.tasks")

_presence: list[PresenceThread] = []
_prefork_children: set[int] = set()


@shared_task(
    name=doorbells.TASK_NAME, acks_late=True, reject_on_worker_lost=True, ignore_result=True
)
def ring(body: Any) -> None:
    """Look at the announced jobs and run those that are really waiting.

    Returning acknowledges the message. That is right in every case: the outcome is in PostgreSQL,
    and a doorbell that led to nothing is rung again by the reconciler if its job still waits.
    """
    try:
        bells = doorbells.decode(body)
    except ValueError as error:
        log.error("doorbell dropped: %s", error)
        return
    if drain.seconds_since_stop() is not None:
        # Taking a job now would only hand it back: another worker shall hear this doorbell.
        raise Reject("worker is stopping", requeue=True)
    _executor(os.getpid()).answer(bells)


@cache
def _executor(pid: int) -> Executor:
    if pid in _prefork_children:
        name = f"{socket.gethostname()}:{os.getppid()}/{pid}"
        return Executor(name, may_end_process=True)
    return Executor(name_of_this_process())


@signals.worker_process_init.connect
def _child_begins(**_: object) -> None:
    _prefork_children.add(os.getpid())


@signals.worker_ready.connect
def _worker_begins(sender: Any, **_: object) -> None:
    drain.clear()
    queues = sorted(sender.app.amqp.queues.consume_from)
    thread = PresenceThread("worker", queues)
    _presence.append(thread)
    thread.start()


@signals.worker_shutting_down.connect
def _worker_stops(**_: object) -> None:
    drain.stop()


@signals.worker_shutdown.connect
def _worker_ended(**_: object) -> None:
    while _presence:
        _presence.pop().stop()
