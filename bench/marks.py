"""The body of every job, ours and the peers': one store of the time into shared memory.

The same few instructions for everybody, so that what is compared is what surrounds them. Imported
by worker processes of all kinds: nothing but the standard library.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from functools import cache
from pathlib import Path

#: Names the file, in the environment of every process of a measurement.
VARIABLE = "INTERLOCK_BENCH_MARKS"
_SLOT = struct.Struct("<d")
#: With its key and number a payload is about 100 bytes of JSON.
PADDING = "x" * 72


def ran(number: int, pad: str = "") -> int:
    """The body: note when job ``number`` ran, by the machine's monotonic clock."""
    _SLOT.pack_into(_mapped(), number * _SLOT.size, time.monotonic())
    return number


@cache
def _mapped() -> mmap.mmap:
    with Path(os.environ[VARIABLE]).open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


class Marks:
    """The other side: what has run, as the measuring process sees it."""

    def __init__(self, path: Path, slots: int) -> None:
        """``slots`` bounds the numbers of jobs; numbers are handed out by ``take``."""
        with path.open("wb") as file:
            file.truncate(slots * _SLOT.size)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._slots = slots
        self._next = 0

    def take(self, count: int) -> range:
        """Numbers for so many new jobs."""
        if self._next + count > self._slots:
            raise ValueError(f"a measurement wants more than {self._slots} jobs")
        numbers = range(self._next, self._next + count)
        self._next += count
        return numbers

    def at(self, number: int) -> float:
        """When the body ran; 0.0 when it has not."""
        return float(_SLOT.unpack_from(self._map, number * _SLOT.size)[0])

    def wait(self, numbers: range, seconds: float) -> float:
        """When the last of these ran. Raises TimeoutError that counts the missing."""
        deadline = time.monotonic() + seconds
        todo = numbers.start
        while True:
            while todo < numbers.stop and self.at(todo) > 0:
                todo += 1
            if todo == numbers.stop:
                return max(self.at(number) for number in numbers)
            if time.monotonic() > deadline:
                missing = sum(self.at(number) == 0 for number in numbers)
                raise TimeoutError(f"{missing} of {len(numbers)} jobs did not run in {seconds:g} s")
            time.sleep(0.002)
