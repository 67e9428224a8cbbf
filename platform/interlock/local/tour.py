"""The demo's jobs: profiles of public data sets, submitted and followed through the real API."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from interlock.local.client import Client
from interlock.local.errors import ApiError, LocalError
from interlock.local.screen import Screen

SAMPLE_FILES = (
    "seattle-weather.csv",
    "airports.csv",
    "seattle-temps.csv",
    "sf-temps.csv",
    "stocks.csv",
    "cars.json",
)
UPLOADED_FILE = "us-employment.csv"

FINAL_STATES = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
COLOURS = {"COMPLETED": "green", "RUNNING": "cyan", "FAILED": "red", "CANCELLED": "yellow"}
POLL_SECONDS = 0.15
# A worker that is being restarted, or the API itself, may be away for a moment.
TOLERATED_SILENCE_SECONDS = 20.0


@dataclass(slots=True)
class SampleJob:
    """One submitted job and the last status the API gave for it."""

    title: str
    id: str
    status: dict[str, Any]

    @property
    def state(self) -> str:
        return str(self.status.get("state", "PENDING"))

    @property
    def fraction(self) -> float:
        if self.state == "COMPLETED":
            return 1.0
        return float((self.status.get("progress") or {}).get("fraction") or 0.0)

    @property
    def message(self) -> str:
        return str((self.status.get("progress") or {}).get("message") or "")


def submit_samples(client: Client, directory: Path) -> list[SampleJob]:
    """One job per sample file by its path, and one for a file that is uploaded first."""
    run = uuid.uuid4().hex
    jobs = []
    for name in SAMPLE_FILES:
        source: dict[str, str] = {"path": str(directory / name)}
        jobs.append(
            SampleJob(name, client.submit("profile", {"source": source}, _key(run, name)), {})
        )
    source = {"upload": client.upload(directory / UPLOADED_FILE)}
    job_id = client.submit("profile", {"source": source}, _key(run, UPLOADED_FILE))
    jobs.append(SampleJob(f"{UPLOADED_FILE} (upload)", job_id, {}))
    return jobs


def _key(run: str, name: str) -> str:
    return f"demo-{run}-{name}"


def follow(client: Client, jobs: Sequence[SampleJob], screen: Screen, seconds: float) -> None:
    """Show progress until every job is final. Raises LocalError after `seconds`."""
    if screen.console.is_terminal:
        _follow_live(client, jobs, screen, seconds)
    else:
        shown: dict[str, str] = {}
        _poll(client, jobs, seconds, lambda: _print_changes(jobs, shown, screen))


def _poll(
    client: Client, jobs: Sequence[SampleJob], seconds: float, show: Callable[[], None]
) -> None:
    deadline = heard = time.monotonic()
    deadline += seconds
    while True:
        try:
            statuses = client.statuses([job.id for job in jobs])
            heard = time.monotonic()
        except ApiError:
            if time.monotonic() - heard > TOLERATED_SILENCE_SECONDS:
                raise
            statuses = []
        by_id = {str(status["id"]): status for status in statuses}
        for job in jobs:
            job.status = by_id.get(job.id, job.status)
        show()
        if all(job.state in FINAL_STATES for job in jobs):
            return
        if time.monotonic() > deadline:
            waiting = ", ".join(f"{job.title} {job.state}" for job in jobs)
            raise LocalError(f"not all jobs ended within {seconds:.0f} s: {waiting}")
        time.sleep(POLL_SECONDS)


def _print_changes(jobs: Sequence[SampleJob], shown: dict[str, str], screen: Screen) -> None:
    for job in jobs:
        if shown.get(job.id) != job.state:
            shown[job.id] = job.state
            screen.plain(f"{job.state:<9} {job.title}")


def _follow_live(client: Client, jobs: Sequence[SampleJob], screen: Screen, seconds: float) -> None:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24, complete_style="cyan", finished_style="green"),
        TextColumn("{task.fields[state]}"),
        TextColumn("[dim]{task.fields[message]}[/]"),
        TimeElapsedColumn(),
        console=screen.console,
    )
    bars: dict[str, TaskID] = {
        job.id: progress.add_task(job.title, total=1.0, state="PENDING", message="") for job in jobs
    }

    def show() -> None:
        for job in jobs:
            colour = COLOURS.get(job.state, "dim")
            progress.update(
                bars[job.id],
                completed=job.fraction,
                state=f"[{colour}]{job.state}[/]",
                message="" if job.state in FINAL_STATES else job.message,
            )
            if job.state in FINAL_STATES:
                progress.stop_task(bars[job.id])

    with progress:
        _poll(client, jobs, seconds, show)
