"""The handler ``noop``: does nothing, for health checks and benchmarks."""

from __future__ import annotations

import time
from typing import Annotated, Final

from pydantic import Field

from jobs.context import Context
from jobs.registry import handler

_CHECK_SECONDS: Final = 0.1


@handler("noop")
def noop(
    sleep_seconds: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 0,
    *,
    context: Context,
) -> None:
    """Do nothing, for as long as asked.

    The sleep is cooperative: it notices within 0.1 s that it should stop.
    """
    deadline = time.monotonic() + sleep_seconds
    while (left := deadline - time.monotonic()) > 0:
        context.check()
        time.sleep(min(left, _CHECK_SECONDS))
