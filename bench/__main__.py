"""``./dev bench``: latency and single-message throughput of the platform, as found.

Asserts nothing about time. Every figure is a median over repetitions with its minimum and maximum.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil

from bench.stage import cpu_seconds, services, workers

Figures = dict[str, list[float]]


def main() -> int:
    """Run every measure and print a table; returns the exit code."""
    options = _options()
    figures: Figures = defaultdict(list)
    with services() as servers:
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        with workers() as ours:
            for name, value in _measured(options, {**servers, **ours}):
                figures[name].append(value)
    table = {
        name: {"median": median(values), "min": min(values), "max": max(values)}
        for name, values in figures.items()
    }
    _print(table, options.repeats)
    if options.json:
        document = {"conditions": _conditions(options), "figures": table}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def _measured(
    options: argparse.Namespace, processes: dict[str, psutil.Process]
) -> Iterator[tuple[str, float]]:
    from bench import measures

    measures.bulk_drain(50)  # warms connections, caches and the workers' imports
    for repeat in range(options.repeats):
        print(f"[bench] repetition {repeat + 1} of {options.repeats}", file=sys.stderr, flush=True)
        yield from measures.latency(20, options.seconds).items()
        yield from measures.single_submits(options.jobs).items()
        before = cpu_seconds(processes)
        yield from measures.bulk_drain(options.jobs).items()
        after = cpu_seconds(processes)
        for name in processes:
            yield f"cpu_{name}_s_per_1000", (after[name] - before[name]) * 1000 / options.jobs
        yield from measures.status_reads(2000).items()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one short repetition, as a smoke test"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs per throughput measure")
    parser.add_argument("--seconds", type=float, default=6, help="length of the latency measure")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.jobs, options.seconds = 1, 200, 2
    return options


def _conditions(options: argparse.Namespace) -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "repeats": options.repeats,
        "jobs": options.jobs,
        "setup": "prefork worker with 2 children, jobs grouped as the relay does, quorum queue with"
        " confirms, fsync and synchronous_commit on, all on one machine",
    }


def _print(table: dict[str, dict[str, float]], repeats: int) -> None:
    print(f"{'figure':36} {'median':>12} {'min':>12} {'max':>12}   ({repeats} repetitions)")
    for name, row in table.items():
        print(f"{name:36} {row['median']:12.2f} {row['min']:12.2f} {row['max']:12.2f}")


if __name__ == "__main__":
    sys.exit(main())
