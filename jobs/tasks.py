"""The Celery side of a worker: unwrap a doorbell, answer it, acknowledge by returning."""

from __future__ import annotations

import logging
import os
import socket
from functools import cache
from typing import Any

from celery import Task, shared_task, signals
from celery.concurrency import ALIASES as _POOLS  # type: ignore[attr-defined] # not in celery-types
from celery.exceptions import Reject

from jobs import doorbells, drain
from jobs.executor import Executor
from jobs.hosts import Host, PreforkChild, Solo, Threads
from jobs.presence import PresenceThread, name_of_this_process

log = logging.getLogger("jobs.tasks")

PREFORK = "celery.concurrency.prefork"
#: What is done to a process of these pools when a handler cannot be stopped; prefork's children
#: are found out as they begin.
_HOSTS: dict[str, type[Host]] = {
    PREFORK: Host,
    "celery.concurrency.solo": Solo,
    "celery.concurrency.thread": Threads,
}

_presence: list[PresenceThread] = []
_prefork_children: set[int] = set()
_host: list[Host] = []


class _Answered(Task[Any, None]):
    """A task whose messages may be given to a child together."""

    Request = "jobs.gathering:Ring"


@shared_task(
    bind=True,
    base=_Answered,
    name=doorbells.TASK_NAME,
    acks_late=True,
    reject_on_worker_lost=True,
    ignore_result=True,
)
def ring(self: Any, *arguments: Any, **named: Any) -> None:
    """Look at the announced jobs and run those that are really waiting.

    Returning acknowledges the message. That is right in every case: the outcome is in PostgreSQL,
    and a doorbell that led to nothing is rung again by the reconciler if its job still waits.

    It takes any arguments, for Celery answers wrong ones, as it answers a result, by sending what a
    forged message names as the sequel, with this worker's credentials. Here it names nothing more.
    """
    self.request.update(callbacks=None, chain=None, chord=None, errbacks=None)
    try:
        bells = doorbells.decode(arguments[0] if len(arguments) == 1 and not named else None)
    except ValueError as error:
        log.error("doorbell dropped: %s", error)
        return
    if drain.seconds_since_stop() is not None:
        # Taking a job now would only hand it back: another worker shall hear this doorbell.
        raise Reject("worker is stopping", requeue=True)
    delivery = self.request.delivery_info or {}
    try:
        _executor(os.getpid()).answer(
            bells,
            redelivered=bool(delivery.get("redelivered")),
            early=doorbells.is_early(arguments[0]),
        )
    except drain.Stopping as error:
        raise Reject(str(error), requeue=True) from error


@cache
def _executor(pid: int) -> Executor:
    if pid in _prefork_children:
        return Executor(f"{socket.gethostname()}:{os.getppid()}/{pid}", PreforkChild())
    return Executor(name_of_this_process(), _host[-1] if _host else None)


@signals.worker_init.connect
def _pool_is_chosen(sender: Any, **_: object) -> None:
    """Raises SystemExit with a line for the operator: with greenlets, a handler that computes would
    stop the heart of all the others, and no exception could be raised in just one of them."""
    module = _module_of(sender.pool_cls)
    if module not in _HOSTS:
        name = module.rpartition(".")[2]
        raise SystemExit(f"jobs: the pool {name} is not supported; use prefork, threads or solo")
    _host.append(_HOSTS[module]())


def _module_of(pool: Any) -> str:
    """The module of a pool class, or of the name of one, without importing it."""
    if not isinstance(pool, str):
        return str(pool.__module__)
    return str(_POOLS.get(pool, pool)).partition(":")[0]


@signals.worker_process_init.connect
def _child_begins(**_: object) -> None:
    # The solo pool sends this as well, from the worker's only process.
    if not _host or type(_host[-1]) is Host:
        _prefork_children.add(os.getpid())


@signals.worker_ready.connect
def _worker_begins(sender: Any, **_: object) -> None:
    drain.clear()
    queues = sorted(sender.app.amqp.queues.consume_from)
    thread = PresenceThread("worker", queues, getattr(sender, "is_listening", lambda: True))
    _presence.append(thread)
    thread.start()


@signals.worker_shutting_down.connect
def _worker_stops(**_: object) -> None:
    drain.stop()


@signals.worker_shutdown.connect
def _worker_ended(**_: object) -> None:
    while _presence:
        _presence.pop().stop()
    while _host:
        _host.pop().leave()
