"""Which pools a worker may have, and what the task does with a doorbell while it cannot claim."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.prefork import TaskPool as Prefork
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.exceptions import Reject

from jobs import drain, tasks
from jobs.executor import Executor
from jobs.hosts import Host, Solo, Threads


@pytest.fixture(autouse=True)
def _hosts() -> Iterator[None]:
    before = list(tasks._host)
    yield
    tasks._host[:] = before


@pytest.mark.parametrize(
    ("pool", "host"),
    [
        ("prefork", Host),
        ("processes", Host),
        (Prefork, Host),
        ("solo", Solo),
        (SoloPool, Solo),
        ("threads", Threads),
        (ThreadPool, Threads),
        ("celery.concurrency.thread:TaskPool", Threads),
    ],
)
def test_a_supported_pool_has_its_way_to_end(pool: Any, host: type[Host]) -> None:
    tasks._pool_is_chosen(SimpleNamespace(pool_cls=pool))
    assert type(tasks._host[-1]) is host


@pytest.mark.parametrize("pool", ["gevent", "eventlet", "celery.concurrency.gevent:TaskPool"])
def test_greenlets_are_refused_in_one_line(pool: str) -> None:
    with pytest.raises(SystemExit) as refused:
        tasks._pool_is_chosen(SimpleNamespace(pool_cls=pool))
    text = str(refused.value)
    assert text.endswith("is not supported; use prefork, threads or solo")
    assert "\n" not in text


def test_a_worker_that_stops_while_it_waits_gives_the_doorbell_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopping(*_: Any, **__: Any) -> None:
        raise drain.Stopping("worker is stopping")

    monkeypatch.setattr(Executor, "answer", stopping)
    with pytest.raises(Reject) as rejected:
        tasks.ring.run({"v": 1, "jobs": []})
    assert vars(rejected.value)["requeue"] is True
