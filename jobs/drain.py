"""Tells every process of a worker that the worker is stopping.

The flag lives in memory that is shared by fork: the main process sets it when the supervisor says
SIGTERM, and the children, which are told nothing by Celery, see it at their next heartbeat. The
monotonic clock is the same in all processes of a machine.
"""

from __future__ import annotations

import mmap
import struct
import time

_flag = mmap.mmap(-1, 8)


def stop() -> None:
    """Mark the beginning of the stop; a second call changes nothing."""
    if seconds_since_stop() is None:
        _flag[:8] = struct.pack("d", time.monotonic())


def clear() -> None:
    """Forget a stop, for processes that outlive one worker, such as tests."""
    _flag[:8] = struct.pack("d", 0.0)


def seconds_since_stop() -> float | None:
    """Seconds since the stop began, or None while the worker is not stopping."""
    (moment,) = struct.unpack("d", _flag[:8])
    return None if moment == 0.0 else time.monotonic() - moment


class Stopping(Exception):
    """The worker is stopping, and this message shall go to another one."""
