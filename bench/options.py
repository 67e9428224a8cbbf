"""What can be said on the command line."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from bench.catalogue import CELLS
from bench.place import Plan

DESCRIPTION = """Measure the platform, the queues that one would pick instead, and the limits of the
machine, interleaved in one run. Asserts nothing about time."""
_DEFAULTS = Plan()
_QUICK = Plan(jobs=200, bulk=1000, seconds=2.0, finished=10_000, waiters=50, memory_jobs=1000)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of a run. ``--quick`` fills in what was not said."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=DESCRIPTION)
    parser.add_argument("--quick", action="store_true", help="ours and three peers, once, small")
    parser.add_argument("--list", action="store_true", help="name everything that can be measured")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these rows or peers alone")
    parser.add_argument("--repeats", type=int, help="repetitions, interleaved (default 3)")
    parser.add_argument("--jobs", type=int, help=f"jobs of a phase (default {_DEFAULTS.jobs})")
    parser.add_argument("--bulk", type=int, help=f"jobs in bulk (default {_DEFAULTS.bulk})")
    parser.add_argument("--seconds", type=float, help="length of the latency phase (default 6)")
    parser.add_argument("--finished", type=int, help="finished rows for the growth row")
    parser.add_argument("--waiters", type=int, help="clients of the waiting row")
    parser.add_argument("--memory-jobs", type=int, help="jobs before a worker's memory is read")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw SVG plots into DIR")
    options = parser.parse_args(arguments)
    if options.repeats is None:
        options.repeats = 1 if options.quick else 3
    return options


def plan_of(options: argparse.Namespace) -> Plan:
    """How much is measured: what was said, else what suits the kind of run."""
    base = _QUICK if options.quick else _DEFAULTS
    names = ("jobs", "bulk", "seconds", "finished", "waiters", "memory_jobs")
    said = {name: getattr(options, name) for name in names}
    return replace(base, **{name: value for name, value in said.items() if value is not None})


def listing() -> str:
    """Every name with what it measures."""
    return "\n".join(f"{cell.name:18} {cell.kind:6} {cell.title}" for cell in CELLS)
