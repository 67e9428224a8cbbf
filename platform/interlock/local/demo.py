"""`./dev demo` and `./dev up`: the whole platform from nothing, until Ctrl-C.

    python -m interlock.local.demo [--exit] [--no-jobs] [--verbose] [--port N] ...

Exit code: 0 after a clean stop (with --exit: only if every sample job completed), 1 when a job
did not complete or something had to be killed, 2 for a problem that is named in one message.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

from interlock.local.errors import LocalError
from interlock.local.options import Options, parse
from interlock.local.report import show_addresses, show_results
from interlock.local.screen import Screen
from interlock.local.stack import Stack, sample_directory
from interlock.local.tour import SampleJob, follow, submit_samples

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WATCH_SECONDS = 1.0


class Interrupted(BaseException):
    """The first stop signal, raised wherever the main thread is; not to be caught as an error."""


class StopSignals:
    """First signal: leave in order. Second: at once."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._seen = 0

    def install(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)

    def ignore_first(self) -> None:
        """The stop has begun by itself: a signal from now on means "at once"."""
        self._seen = max(self._seen, 1)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._seen += 1
        if self._seen == 1:
            raise Interrupted
        # Not from the handler itself: it may have interrupted the lock that this needs.
        threading.Thread(target=self._stack.kill_now, daemon=True).start()


def run_jobs(stack: Stack, screen: Screen, options: Options) -> list[SampleJob]:
    """Submit the samples, follow them, show what came out."""
    client = stack.client()
    begun = time.monotonic()
    jobs = submit_samples(client, sample_directory())
    follow(client, jobs, screen, options.timeout_seconds)
    show_results(screen, client, jobs, time.monotonic() - begun)
    return jobs


def serve(stack: Stack) -> None:
    """Until a signal arrives."""
    while True:
        time.sleep(WATCH_SECONDS)
        stack.watch()


def run(stack: Stack, screen: Screen, options: Options) -> int:
    """Everything between start and stop; the exit code as far as the jobs decide it."""
    stack.start()
    screen.say(f"[green]ready[/] after {screen.elapsed_seconds():.1f} s")
    jobs = run_jobs(stack, screen, options) if options.jobs else []
    completed = all(job.state == "COMPLETED" for job in jobs)
    show_addresses(screen, stack.url, stack.account, jobs[0].id if jobs else None)
    if not options.exit:
        screen.say("Ctrl-C stops everything; jobs, audit and results are kept for the next start.")
        serve(stack)
    return 0 if completed else 1


def main(argv: Sequence[str]) -> int:
    screen = Screen()
    try:
        options = parse(argv, os.environ)
    except LocalError as error:
        screen.plain(str(error))
        return 2
    stack = Stack(options, screen)
    signals = StopSignals(stack)
    signals.install()
    code = 0
    try:
        code = run(stack, screen, options)
    except Interrupted:
        screen.say("\nstopping (Ctrl-C again to kill)")
    except LocalError as error:
        screen.plain(str(error))
        code = 2
    finally:
        signals.ignore_first()
        stop_code = stack.stop()
    if stack.began:
        screen.say("stopped")
    return code or stop_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
