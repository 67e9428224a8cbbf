"""What a run found, as text that is Markdown too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.catalogue import BY_NAME, CELLS
from bench.summary import Summary, number, shown

_QUEUE_COLUMNS = {
    "submit/s": "enqueue_per_second",
    "bulk submit/s": "bulk_enqueue_per_second",
    "drain/s": "drain_per_second",
    "bulk drain/s": "bulk_drain_per_second",
    "steady/s": "steady_per_second",
    "bulk steady/s": "bulk_steady_per_second",
    "CPU s/1000": "cpu_total",
    "bulk CPU s/1000": "bulk_cpu_total",
    "body p50 ms": "body_p50_ms",
    "visible p50 ms": "visible_p50_ms",
    "visible p99 ms": "visible_p99_ms",
    "worker MB": "memory_after_mb",
}
_ROLES = ("producer", "worker", "relay", "scheduler", "postgres", "rabbitmq", "redis")


def report(
    summary: Summary,
    ratios: Mapping[str, Mapping[str, Any]],
    missing: Mapping[str, str],
    not_offered: Mapping[str, str],
) -> str:
    """All tables, one below the other."""
    parts = [
        _queues(summary),
        _roles(summary),
        _others(summary),
        _targets(ratios),
        _reasons("Missing", missing),
        _reasons("Not offered", not_offered),
    ]
    return "\n\n".join(part for part in parts if part)


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns line up."""
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    texts = [
        "| "
        + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])


def _queues(summary: Summary) -> str:
    names = [cell.name for cell in CELLS if "enqueue_per_second" in summary.get(cell.name, {})]
    if not names:
        return ""
    rows = [
        [BY_NAME[name].title, *(shown(summary[name].get(key)) for key in _QUEUE_COLUMNS.values())]
        for name in names
    ]
    return "## Queues\n\n" + grid(["queue", *_QUEUE_COLUMNS], rows)


def _roles(summary: Summary) -> str:
    """Who spends the CPU: of the bulk backlog where there is one."""
    rows = []
    for cell in CELLS:
        found = summary.get(cell.name, {})
        for prefix, note in (("", ""), ("bulk_", ", bulk")):
            if f"{prefix}cpu_total" in found:
                used = [shown(found.get(f"{prefix}cpu_{role}")) for role in _ROLES]
                rows.append([BY_NAME[cell.name].title + note, *used])
    return "## CPU seconds per 1,000 jobs\n\n" + grid(["queue", *_ROLES], rows) if rows else ""


def _others(summary: Summary) -> str:
    rows = [
        [BY_NAME[name].title, figure, shown(row)]
        for name, found in summary.items()
        if "enqueue_per_second" not in found
        for figure, row in found.items()
    ]
    return "## Other rows and limits\n\n" + grid(["row", "figure", "median"], rows) if rows else ""


def _targets(ratios: Mapping[str, Mapping[str, Any]]) -> str:
    """Those whose own figure was measured; the JSON file has all."""
    rows = []
    for name, ratio in ratios.items():
        if ratio["figure"]["value"] is None:
            continue
        value, against = ratio["value"], ratio.get("against")
        words = {True: "yes", False: "no", None: "–"}
        rows.append(
            [
                name,
                "–" if value is None else number(value),
                ratio["target"],
                words[ratio["met"]],
                _figure(ratio["figure"]),
                _figure(against) if against else "–",
            ]
        )
    head = ["ratio", "value", "target", "met", "figure", "against"]
    return "## Targets\n\n" + grid(head, rows) if rows else ""


def _figure(figure: Mapping[str, Any]) -> str:
    value = "not measured" if figure["value"] is None else number(figure["value"])
    return f"{figure['cell']} {figure['name']}: {value}"


def _reasons(title: str, reasons: Mapping[str, str]) -> str:
    if not reasons:
        return ""
    rows = [[name, " ".join(reason.split())[:300]] for name, reason in reasons.items()]
    return f"## {title}\n\n" + grid(["what", "why"], rows)
