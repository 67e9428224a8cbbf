"""What is measured. Each measure is one function that returns plain figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from uuid import UUID

from django.db import connection

from jobs import lifecycle, status
from jobs.states import JobState
from jobs.values import Submission

#: A measure that does not end by itself is a failure, not a figure.
PATIENCE_SECONDS = 300.0


def latency(rate_per_second: float, seconds: float) -> dict[str, float]:
    """No-op jobs at a steady rate: milliseconds, p50/p95/p99, by the database's clock.

    ``call`` is the submit call of one process, own transaction, measured by that process.
    ``seen`` is from the submit call's beginning until Redis answers COMPLETED, polled every 1 ms.
    """
    calls, seen, ids = [], [], []
    began = time.perf_counter()
    for number in range(int(rate_per_second * seconds)):
        _sleep_until(began + number / rate_per_second)
        at = time.perf_counter()
        ids.append(lifecycle.submit([Submission("noop")])[0].job_id)
        calls.append((time.perf_counter() - at) * 1000)
        seen.append(_milliseconds_until_seen(ids[-1], at))
    wait_completed(ids)
    return {
        **_percentiles("call", calls),
        **_percentiles("seen", seen),
        **_percentiles("publish", _spans(ids, "o.published_at - o.created_at")),
        **_percentiles("start", _spans(ids, "j.started_at - j.submitted_at")),
        **_percentiles("complete", _spans(ids, "j.finished_at - j.submitted_at")),
    }


def single_submits(count: int) -> dict[str, float]:
    """Submit one by one, each its own transaction, while the worker drains: jobs per second."""
    began = time.perf_counter()
    ids = [lifecycle.submit([Submission("noop")])[0].job_id for _ in range(count)]
    submitted = time.perf_counter()
    wait_completed(ids)
    return {
        "submit_per_second": count / (submitted - began),
        "steady_per_second": count / (time.perf_counter() - began),
    }


def bulk_drain(count: int) -> dict[str, float]:
    """Submit in sets of 1,000 and drain, as the relay groups them: jobs per second."""
    began = time.perf_counter()
    ids: list[UUID] = []
    while len(ids) < count:
        size = min(1000, count - len(ids))
        ids += [one.job_id for one in lifecycle.submit([Submission("noop")] * size)]
    submitted = time.perf_counter()
    wait_completed(ids)
    return {
        "bulk_submit_per_second": count / (submitted - began),
        "drain_per_second": count / (time.perf_counter() - began),
    }


def status_reads(count: int) -> dict[str, float]:
    """Reads of a warm status copy by one thread of one process: per second."""
    job_id = lifecycle.submit([Submission("noop")])[0].job_id
    wait_completed([job_id])
    return {
        "status_copy_reads_per_second": _rate(count, lambda: status.read([job_id])),
        "status_copies_per_second_by_1000": 1000 * _rate(20, lambda: status.read([job_id] * 1000)),
    }


def wait_completed(ids: Sequence[UUID]) -> None:
    """Return when all are COMPLETED. Raises TimeoutError naming how many are missing."""
    deadline = time.perf_counter() + PATIENCE_SECONDS
    statement = "SELECT count(*) FROM jobs_job WHERE id = ANY(%s::uuid[]) AND state = %s"
    while True:
        with connection.cursor() as cursor:
            cursor.execute(statement, [[str(job_id) for job_id in ids], JobState.COMPLETED])
            done = int(cursor.fetchone()[0])
        if done == len(ids):
            return
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{len(ids) - done} of {len(ids)} jobs did not complete")
        time.sleep(0.02)


def _milliseconds_until_seen(job_id: UUID, since: float) -> float:
    deadline = since + 10
    while time.perf_counter() < deadline:
        copy = status.read([job_id]).get(job_id)
        if copy is not None and b'"state":"COMPLETED"' in copy.body:
            return (time.perf_counter() - since) * 1000
        time.sleep(0.001)
    raise TimeoutError(f"job {job_id} is not COMPLETED in Redis")


def _spans(ids: Sequence[UUID], span: str) -> list[float]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT 1000 * extract(epoch FROM {span}) FROM jobs_job j"
            " JOIN jobs_outboxentry o ON o.job_id = j.id WHERE j.id = ANY(%s::uuid[])",
            [[str(job_id) for job_id in ids]],
        )
        return [float(row[0]) for row in cursor.fetchall()]


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float]:
    ranked = sorted(values)
    last = len(ranked) - 1
    return {
        f"{name}_p50_ms": median(ranked),
        f"{name}_p95_ms": ranked[round(0.95 * last)],
        f"{name}_p99_ms": ranked[round(0.99 * last)],
    }


def _rate(count: int, call: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    return count / (time.perf_counter() - began)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.perf_counter()))
