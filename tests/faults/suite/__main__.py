"""`./dev faults`: break everything around the platform, and judge what it did meanwhile.

    ./dev faults [--quick] [--hours H] [--seed N] [--generation installed|trixie] [--only NAME]
                 [--list] [--json FILE] [--markdown FILE] [--keep] [--rate R]

Everything that is started is gone afterwards, also after a kill. Exit code 0: every invariant held
and every return to work was within its bound; 1: not so; 2: the run could not take place.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from interlock.local import testing
from interlock.local.errors import LocalError
from interlock.local.home import Home
from interlock.local.servers import start_all, stop_all
from tests.faults.suite import faults_clock, generation, plan
from tests.faults.suite.fault import Fault, everything
from tests.faults.suite.report import Report
from tests.faults.suite.sitting import Sitting

#: A quick run ends by force after this time; an hours run this long after its hours.
QUICK_LIMIT_SECONDS = 1800.0
AFTER_HOURS_SECONDS = 900.0
#: What tidying up may take before the process leaves without it: the next run sweeps.
LEAVE_SECONDS = 90


class TooLong(BaseException):
    """The run's hard limit."""


def say(message: str) -> None:
    print(f"[faults] {message}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    options = parsed(arguments)
    faults = chosen(options.only)
    if options.list:
        for fault in faults:
            print(f"{fault.name}  [{', '.join(fault.threatens)}]")
        return 0
    if not faults:
        say(f"no fault's name contains {options.only!r}; --list shows all")
        return 2
    try:
        if options.generation == "trixie":
            generation.enter_namespace(arguments)
        return in_a_home(options, faults)
    except LocalError as error:
        say(str(error))
        return 2


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev faults", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="every fault once (the default)")
    add("--hours", type=float, help="random faults for so long")
    add("--seed", type=int, help="of everything that is chosen; drawn and shown if not given")
    add("--generation", choices=generation.NAMES, default="installed")
    add("--only", help="only faults whose name contains this")
    add("--list", action="store_true", help="show the faults and what they threaten")
    add("--json", type=Path, help="write the report to this file as JSON")
    add("--markdown", type=Path, help="write the tables to this file as Markdown")
    add("--keep", action="store_true", help="keep logs and ledger of a run that passed, too")
    add("--rate", type=float, default=12.0, help="jobs per second that are submitted")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.randrange(1_000_000)
    return options


def chosen(only: str | None) -> list[Fault]:
    wanted = (only or "").casefold()
    return [fault for fault in everything() if wanted in fault.name.casefold()]


def in_a_home(options: argparse.Namespace, faults: Sequence[Fault]) -> int:
    """Run in a fresh private directory, which is swept afterwards whatever happens."""
    _heed_signals(limit_of(options))
    home = testing.make_home()
    keep = True
    try:
        report = on_servers(options, faults, home)
        keep = options.keep or not report.passed
    except testing.Interrupted:
        keep = options.keep
        return testing.INTERRUPTED
    except TooLong:
        say("the run took too long and was ended")
        return 1
    finally:
        _leave_in_time()
        if keep:
            _keep(home, options.seed)
        testing.remove_home(home)
    print(report.text())
    _write(options, report)
    return 0 if report.passed else 1


def _keep(home: Home, seed: int) -> None:
    """Move logs and ledger to a name that no sweep of leftovers knows."""
    world = home.path("world")
    if world.exists():
        place = home.root.with_name(f"interlock-faults-{seed}-{int(time.time())}")
        world.rename(place)
        say(f"kept: {place}")


def on_servers(options: argparse.Namespace, faults: Sequence[Fault], home: Home) -> Report:
    servers = generation.servers(options.generation, home.root, say)
    faults_clock.provide(say)
    report = Report(
        mode="hours" if options.hours else "quick",
        seed=options.seed,
        generation=options.generation,
        replay=_replay(options),
        strict=not options.hours,
    )
    start_all(list(servers.all()))
    try:
        report.versions = generation.versions(servers.services)
        say(f"seed {options.seed}; " + ", ".join(f"{k} {v}" for k, v in report.versions.items()))
        _sit(options, faults, Sitting(servers, home.root, report, say))
    finally:
        stop_all(list(servers.all()))
    return report


def _sit(options: argparse.Namespace, faults: Sequence[Fault], sitting: Sitting) -> None:
    if options.hours:
        steps, until = plan.at_random(faults, options.seed), time.time() + options.hours * 3600
    else:
        steps, until = plan.quick(faults, options.seed), float("inf")
    sitting.run(steps, until_time=until, rate=options.rate)


def limit_of(options: argparse.Namespace) -> float:
    """Seconds after which the run is ended by force."""
    return options.hours * 3600 + AFTER_HOURS_SECONDS if options.hours else QUICK_LIMIT_SECONDS


def _replay(options: argparse.Namespace) -> str:
    words = ["./dev faults", f"--hours {options.hours:g}" if options.hours else "--quick"]
    words += [f"--seed {options.seed}", f"--generation {options.generation}"]
    return " ".join([*words, f"--only {options.only!r}"] if options.only else words)


def _write(options: argparse.Namespace, report: Report) -> None:
    if options.json:
        options.json.write_text(json.dumps(report.json(), indent=2, default=str) + "\n")
    if options.markdown:
        options.markdown.write_text(report.markdown() + "\n")


def _heed_signals(limit_seconds: float) -> None:
    for number in testing.STOP_SIGNALS:
        signal.signal(number, _interrupt)
    signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, limit_seconds)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise testing.Interrupted


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise TooLong


def _leave_in_time() -> None:
    """No more signals but one: tidying up is bounded, and leashes end what it does not reach."""
    for number in testing.STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
    signal.setitimer(signal.ITIMER_REAL, LEAVE_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
