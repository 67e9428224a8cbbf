"""What the demo prints in the end: a profiled data set, the timing, and where to go next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from interlock.local.client import Client
from interlock.local.errors import ApiError
from interlock.local.screen import Screen
from interlock.local.tour import SampleJob

BLOCKS = "▁▂▃▄▅▆▇█"
MAX_COLUMNS = 12


def sparkline(counts: Sequence[float], width: int = 16) -> str:
    """A histogram as a line of blocks; neighbouring bins are averaged to fit `width`.

    Averaged, not added up: groups of unequal size must not look like peaks. An empty bin is a
    space, so that it differs from a small one.
    """
    if not counts:
        return ""
    bins = min(width, len(counts))
    edges = [index * len(counts) // bins for index in range(bins + 1)]
    means = [sum(counts[low:high]) / (high - low) for low, high in pairwise(edges)]
    top = max(means)
    if top <= 0:
        return " " * bins
    steps = len(BLOCKS) - 1
    return "".join(" " if value <= 0 else BLOCKS[round(value / top * steps)] for value in means)


def short(value: object, width: int = 18) -> str:
    """A cell's text: numbers with four significant digits, the rest cut to `width`."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def profile_table(title: str, result: Mapping[str, Any], width: int = 80) -> Table:
    """One row per column of the profiled data set; fits a terminal of 80 characters."""
    columns = list(result.get("columns") or [])
    shown = columns[:MAX_COLUMNS]
    rest = f", {len(columns) - len(shown)} more columns" if len(columns) > len(shown) else ""
    heading = f"{escape(title)}: {result.get('rows', 0):,} rows{rest}"
    table = Table(title=heading, title_justify="left", box=SIMPLE_HEAD)
    table.padding, table.pad_edge, table.show_edge = (0, 0), False, False
    table.add_column("column", no_wrap=True, max_width=16)
    table.add_column("type", no_wrap=True, style="dim")
    for name in ("gaps", "min", "median", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("distribution", no_wrap=True)
    bars = 16 if width < 100 else 24
    for column in shown:
        table.add_row(*_cells(column, bars))
    return table


def _cells(column: Mapping[str, Any], bars: int) -> list[str]:
    quantiles = column.get("quantiles") or {}
    counts = (column.get("histogram") or {}).get("counts") or []
    cells = [
        short(column.get("name")),
        short(column.get("type"), 8),
        short(column.get("missing")),
        short(column.get("minimum"), 10),
        short(quantiles.get("0.5"), 10),
        short(column.get("maximum"), 10),
    ]
    if counts:
        distribution = f"[cyan]{sparkline(counts, bars)}[/]"
    else:
        distribution = escape(top_values(column, bars + 1))
    return [*map(escape, cells), distribution]


def top_values(column: Mapping[str, Any], width: int) -> str:
    """The most frequent values with their counts, as many as fit."""
    text = ""
    for entry in column.get("top") or []:
        item = f"{short(entry['value'], 12)} {entry['count']}"
        longer = f"{text}, {item}" if text else item
        if len(longer) > width:
            break
        text = longer
    return text


def show_results(screen: Screen, client: Client, jobs: Sequence[SampleJob], seconds: float) -> None:
    """The first completed profile as a table, its artifacts, what failed, and the timing."""
    completed = [job for job in jobs if job.state == "COMPLETED"]
    for job in jobs:
        if job.state != "COMPLETED":
            screen.plain(f"{job.title}: {job.state}. {failure_reason(client, job)}")
    if completed:
        first = completed[0]
        result = first.status.get("result") or _fetched_result(client, first)
        screen.say("")
        screen.say(profile_table(first.title, result, screen.console.width))
        for name, address in artifacts(client, first):
            screen.plain(f"artifact {name}: {address}")
    screen.say(f"\n{len(completed)} of {len(jobs)} jobs COMPLETED in {seconds:.1f} s")


def failure_reason(client: Client, job: SampleJob) -> str:
    """The reason of the last audit entry, for a job that did not complete."""
    try:
        entries = client.get(f"/api/v1/jobs/{job.id}/transitions/").get("results") or []
    except ApiError as error:
        return str(error)
    return next((str(entry["reason"]) for entry in reversed(entries) if entry.get("reason")), "")


def _fetched_result(client: Client, job: SampleJob) -> Mapping[str, Any]:
    """A result too large for the status is part of the job itself."""
    try:
        return client.get(f"/api/v1/jobs/{job.id}/").get("result") or {}
    except ApiError:
        return {}


def artifacts(client: Client, job: SampleJob) -> list[tuple[str, str]]:
    """Name and address of the files kept with a job."""
    base = f"/api/v1/jobs/{job.id}/artifacts/"
    try:
        found = client.get(base).get("results") or []
    except ApiError:
        return []
    return [(str(entry["name"]), f"{client.base_url}{base}{entry['name']}/") for entry in found]


def show_addresses(
    screen: Screen, url: str, account: Mapping[str, str], example_job: str | None
) -> None:
    """Where everything is, how to log in, and a request to try."""
    target = f"{url}/api/v1/jobs/{example_job}/status/" if example_job else f"{url}/api/v1/jobs/"
    header = shlex.quote(f"Authorization: Bearer {account['api_key']}")
    lines = [
        f"[bold]API[/]      {url}/api/v1/jobs/",
        f"[bold]docs[/]     {url}/api/docs/",
        f"[bold]admin[/]    {url}/admin/",
        f"[bold]login[/]    {escape(account['username'])} / {escape(account['password'])}",
        f"[bold]API key[/]  {escape(account['api_key'])}",
    ]
    screen.say(Panel("\n".join(lines), title="Interlock is running", expand=False))
    screen.say("Try:")
    # One unwrapped line, so that it can be copied.
    screen.plain(f"  curl -s -H {header} {target}")
