"""``verify``: whether what must be true of all jobs is true."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs.errors import CannotVerify
from jobs.verification import Finding, Progress, Report, verify

BROKEN = 1
COULD_NOT_RUN = 2
#: Between two lines of progress.
EVERY_SECONDS = 5.0


class Command(BaseCommand):
    help = (
        "Check that jobs, audit and outbox keep every promise; reads only, safe at any time. Exits"
        " with 0 if nothing is broken, 1 if something is, 2 if it could not look."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--at-rest", action="store_true", help="nothing should be going on: check that too"
        )
        parser.add_argument("--ledger", type=Path, help="directory of what outsiders were told")
        parser.add_argument("--only", default="", help="invariants to check, such as I3,I5")
        parser.add_argument("--window", type=int, default=5000, help="jobs looked at at once")
        parser.add_argument(
            "--bound", type=float, default=60.0, help="seconds until a lapsed lease is rescued"
        )
        parser.add_argument(
            "--max-unpublished", type=float, help="seconds that a due doorbell may wait"
        )
        parser.add_argument(
            "--max-lost-attempts", type=int, help="the setting's highest value ever, if it was more"
        )
        parser.add_argument("--json", action="store_true", help="the report as one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = verify(
                ledger=options["ledger"],
                at_rest=options["at_rest"],
                window=options["window"],
                only=[name.strip() for name in options["only"].split(",") if name.strip()],
                bound_seconds=options["bound"],
                max_unpublished_seconds=options["max_unpublished"],
                max_lost_attempts=options["max_lost_attempts"],
                on_progress=Watch(self.stderr),
            )
        except (CannotVerify, ValueError) as error:
            raise CommandError(f"could not verify: {error}", returncode=COULD_NOT_RUN) from error
        lines = [json.dumps(report.as_dict())] if options["json"] else text_of(report)
        for line in lines:
            self.stdout.write(line)
        if not report.ok:
            sys.exit(BROKEN)


class Watch:
    """Says now and then how far it is, so that a long run is seen to live."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self._next = time.monotonic() + EVERY_SECONDS

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY_SECONDS
            of = f" of about {progress.expected:,}" if progress.expected else ""
            self._out.write(f"{progress.stage}: {progress.jobs:,}{of} jobs")


def text_of(report: Report) -> Iterator[str]:
    """A report for people."""
    for finding in report.findings:
        yield from _lines(finding)
    for note in report.notes:
        yield f"note: {note}"
    yield (
        f"{report.jobs:,} jobs and {report.entries:,} audit entries in {report.windows:,} windows,"
        f" {report.seconds:.1f} s; longest snapshot {report.slowest_seconds:.2f} s"
    )


def _lines(finding: Finding) -> Iterator[str]:
    yield f"{finding.id:<4} {finding.title}: {_counted(finding.violations)}"
    for example in finding.examples:
        yield f"     {example}"


def _counted(violations: int) -> str:
    if not violations:
        return "ok"
    return "1 violation" if violations == 1 else f"{violations:,} violations"
