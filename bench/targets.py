"""The target table as data, and every row of it as one named number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.catalogue import CELLS
from bench.summary import Summary

Figure = tuple[str, str]
"""A cell's name and its figure's."""

PEERS = [cell.name for cell in CELLS if cell.kind == "peer"]


@dataclass(frozen=True)
class Target:
    """One number: a figure of ours, alone or by the best of some others."""

    name: str
    row: str
    ours: Figure
    against: Sequence[Figure] = ()
    """The largest of these that were measured; empty for a target in absolute terms."""
    at_least: float | None = None
    at_most: float | None = None
    given: tuple[Figure, float] | None = None
    """A figure that has to be this large at least: with less, nothing is said of the target."""


_FULL_HOUSE: tuple[Figure, float] = (("waiting", "held"), 5000)
_LONG_LIFE: tuple[Figure, float] = (("memory", "jobs"), 100_000)


def _of_all(*figures: str) -> list[Figure]:
    return [(peer, figure) for peer in PEERS for figure in figures]


_BEST_DRAIN = _of_all("drain_per_second", "bulk_drain_per_second")

TARGETS: tuple[Target, ...] = (
    Target(
        "drain_by_fastest_peer", "drain", ("interlock", "bulk_drain_per_second"), _BEST_DRAIN, 1.5
    ),
    Target(
        "drain_by_sql_limit",
        "drain",
        ("interlock", "bulk_drain_per_second"),
        [("sql", "grouped_lives_per_second")],
        1 / 3,
    ),
    Target(
        "single_drain_by_celery_django",
        "drain, one job per message",
        ("interlock-single", "drain_per_second"),
        [("celery-django", "drain_per_second")],
        4.0,
    ),
    Target(
        "single_drain_by_celery",
        "drain, one job per message",
        ("interlock-single", "drain_per_second"),
        [("celery", "drain_per_second")],
        0.6,
    ),
    Target(
        "steady_by_celery",
        "submit and drain at once",
        ("interlock", "steady_per_second"),
        [("celery", "steady_per_second")],
        1.0,
    ),
    Target(
        "bulk_steady_by_fastest_peer",
        "submit and drain at once",
        ("interlock", "bulk_steady_per_second"),
        _of_all("steady_per_second"),
        1.3,
    ),
    Target(
        "bulk_steady_by_fastest_bulk_peer",
        "submit and drain at once, peers in bulk too (no target)",
        ("interlock", "bulk_steady_per_second"),
        _of_all("bulk_steady_per_second"),
    ),
    Target(
        "bulk_submit_per_second",
        "bulk submit from Python",
        ("interlock", "bulk_enqueue_per_second"),
        at_least=20_000,
    ),
    Target(
        "bulk_submit_by_pgqueuer",
        "bulk submit from Python",
        ("interlock", "bulk_enqueue_per_second"),
        [("pgqueuer", "bulk_enqueue_per_second")],
        0.7,
    ),
    Target(
        "submit_by_pgqueuer",
        "single submit from Python",
        ("interlock", "enqueue_per_second"),
        [("pgqueuer", "enqueue_per_second")],
        1.0,
    ),
    Target(
        "http_submit_by_empty_post",
        "HTTP submit",
        ("http", "submit_per_second"),
        [("views", "empty_post_per_second")],
        0.4,
    ),
    Target(
        "http_bulk_jobs_per_second",
        "HTTP submit",
        ("http", "bulk_jobs_per_second"),
        at_least=10_000,
    ),
    Target("latency_started_p50_ms", "latency", ("interlock", "body_p50_ms"), at_most=5),
    Target("latency_visible_p50_ms", "latency", ("interlock", "visible_p50_ms"), at_most=8),
    Target("latency_visible_p99_ms", "latency", ("interlock", "visible_p99_ms"), at_most=25),
    Target("cpu_grouped_s_per_1000", "CPU", ("interlock", "bulk_cpu_total"), at_most=0.25),
    Target("cpu_single_s_per_1000", "CPU", ("interlock-single", "cpu_total"), at_most=2.5),
    Target(
        "status_by_empty_view",
        "status endpoint",
        ("status", "status_per_second"),
        [("views", "empty_get_per_second")],
        1.0,
    ),
    Target(
        "status_by_usual_view",
        "status endpoint",
        ("status", "status_per_second"),
        [("views", "usual_status_per_second")],
        8.0,
    ),
    Target("status_p99_ms", "status endpoint", ("status", "status_p99_ms"), at_most=25),
    Target(
        "statuses_per_second_by_1000",
        "status of 1,000 jobs in one call",
        ("status", "bulk_statuses_per_second"),
        at_least=100_000,
    ),
    Target("waiting_clients", "waiting clients", ("waiting", "held"), at_least=5000),
    Target(
        "waiting_memory_mb",
        "waiting clients",
        ("waiting", "memory_mb"),
        at_most=200,
        given=_FULL_HOUSE,
    ),
    Target(
        "waiting_all_told_seconds",
        "waiting clients",
        ("waiting", "told_seconds"),
        at_most=1.0,
        given=_FULL_HOUSE,
    ),
    Target("memory_worker_mb", "memory", ("memory", "after_mb"), at_most=250, given=_LONG_LIFE),
    Target(
        "memory_growth",
        "memory",
        ("memory", "after_mb"),
        [("memory", "before_mb")],
        at_most=1.1,
        given=_LONG_LIFE,
    ),
    Target(
        "growth_by_empty",
        "growth",
        ("growth", "full_drain_per_second"),
        [("growth", "empty_drain_per_second")],
        0.9,
        given=(("growth", "finished_rows"), 10_000_000),
    ),
)


def ratios(summary: Summary, targets: Sequence[Target] = TARGETS) -> dict[str, dict[str, Any]]:
    """Every target that the run can speak of: its number, what it is made of, and whether it holds.

    A target that lacks one of its figures has no value, and says which figure that is.
    """
    return {target.name: _ratio(summary, target) for target in targets}


def _ratio(summary: Summary, target: Target) -> dict[str, Any]:
    answer: dict[str, Any] = {"row": target.row, "target": _target_text(target)}
    figure = _median(summary, target.ours)
    known = [(value, one) for one in target.against if (value := _median(summary, one)) is not None]
    against = max(known, default=None)
    answer["figure"] = _named(target.ours, figure)
    if target.against:
        answer["against"] = _named(
            against[1] if against else target.against[0], against and against[0]
        )
    missing = figure is None or bool(target.against and not against)
    value = None
    if figure is not None and not missing:
        value = figure / against[0] if against else figure
    answer["value"] = value
    answer["met"] = None if value is None or not _is_given(summary, target) else _met(target, value)
    return answer


def _is_given(summary: Summary, target: Target) -> bool:
    if target.given is None:
        return True
    figure, least = target.given
    return (_median(summary, figure) or 0.0) >= least


def _met(target: Target, value: float) -> bool | None:
    if target.at_least is not None:
        return value >= target.at_least
    return None if target.at_most is None else value <= target.at_most


def _target_text(target: Target) -> str:
    sense: Literal[">=", "<="] = ">=" if target.at_least is not None else "<="
    bound = target.at_least if target.at_least is not None else target.at_most
    return "none" if bound is None else f"{sense} {bound:.4g}"


def _median(summary: Summary, figure: Figure) -> float | None:
    row = summary.get(figure[0], {}).get(figure[1])
    return None if row is None else row["median"]


def _named(figure: Figure, value: float | None) -> dict[str, Any]:
    return {"cell": figure[0], "name": figure[1], "value": value}
