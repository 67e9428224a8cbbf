"""``jobs_health``: exit code 0 if this host's processes of a kind are alive, or ready."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from jobs import conf, presence


class Command(BaseCommand):
    help = (
        "Exit with 0 if the worker, relay or scheduler on this host shows life, and with 1 if it "
        "stands still or is not there. Asks neither database nor broker."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("kind", choices=["worker", "relay", "scheduler"])
        parser.add_argument(
            "--ready", action="store_true", help="fail also while it lives but cannot do its work"
        )
        parser.add_argument("--pid", type=int, help="this process only; default: all of the kind")

    def handle(self, *args: Any, **options: Any) -> None:
        wanted = options["pid"]
        found = [beat for beat in presence.beats(options["kind"]) if wanted in (None, beat.pid)]
        problems = [text for beat in found if (text := problem(beat, ready=options["ready"]))]
        if not found:
            problems = [f"no {options['kind']} is running here"]
        self.stdout.write("; ".join(problems) or "ok")
        sys.exit(1 if problems else 0)


def problem(beat: presence.Beat, *, ready: bool) -> str:
    """What is wrong with a process, in words; empty if nothing is."""
    age = beat.age_seconds()
    if age > conf.get().worker_stale_seconds:
        return f"pid {beat.pid} has shown no life for {age:.0f} s"
    return f"pid {beat.pid} is not ready: {beat.note}" if ready and not beat.ready else ""
