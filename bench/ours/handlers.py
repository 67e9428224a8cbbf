"""The handler that is measured. Found because ``bench.ours`` is an installed app."""

from __future__ import annotations

from bench import marks
from jobs.registry import handler

NAME = "bench.ran"


@handler(NAME)
def ran(number: int, pad: str = "") -> None:
    """Note that the body ran, like everybody's."""
    marks.ran(number, pad)
