"""How long each handler runs, as measured lately: what the relay sizes its messages by.

Workers keep a moving average per handler and leave it in Redis, whoever wrote last; a relay that
finds none sends single jobs. A wrong figure makes messages too long or too short, no more: workers
hand back what waits behind a slow job.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any

from jobs import cache, conf

#: Weight of the newest run in the average.
NEWEST = 0.2
#: Between two times that one process writes, or reads.
SECONDS = 1.0
#: The same for reading while handlers are wanted of which nothing is known.
UNKNOWN_SECONDS = 0.05
#: Life of what nobody writes any more.
LIFE_SECONDS = 3600


class Pace:
    """What one worker process has measured. Safe to use from several threads."""

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}
        self._fresh: set[str] = set()
        self._tell_at = 0.0
        self._lock = threading.Lock()

    def note(self, handler: str, seconds: float) -> None:
        """Count one run."""
        with self._lock:
            before = self._mean.get(handler, seconds)
            self._mean[handler] = before + NEWEST * (seconds - before)
            self._fresh.add(handler)

    def tell(self) -> None:
        """Leave what is new where relays find it, at most once per ``SECONDS``."""
        now = time.monotonic()
        with self._lock:
            if now < self._tell_at or not self._fresh:
                return
            self._tell_at = now + SECONDS
            told = {name: repr(self._mean[name]) for name in self._fresh}
            self._fresh.clear()

        def question(r: Any) -> bool:
            with r.pipeline(transaction=False) as pipe:
                pipe.hset(_key(), mapping=told)
                pipe.expire(_key(), LIFE_SECONDS)
                pipe.execute()
            return True

        if cache.ask(question) is None:
            # What stands there may be somebody else's, for ever.
            cache.ask(lambda r: r.delete(_key()))


class Paces:
    """What all workers have told, for one relay."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._looked_at = float("-inf")

    def seconds(self, wanted: Collection[str] = ()) -> Mapping[str, float]:
        """Mean seconds per run, by handler; without those that nobody has told of lately.

        Asked for a handler that has only just run for the first time, it looks again soon: a
        backlog that is published without its pace is worked off one by one.
        """
        now = time.monotonic()
        is_unknown = any(name not in self._seconds for name in wanted)
        if now - self._looked_at >= (UNKNOWN_SECONDS if is_unknown else SECONDS):
            self._looked_at = now
            found = cache.ask(lambda r: r.hgetall(_key())) or {}
            pairs = ((_text(name), _number(value)) for name, value in found.items())
            self._seconds = {name: value for name, value in pairs if value is not None}
        return self._seconds


def _key() -> str:
    return f"{conf.get().cache_prefix}:pace"


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _number(value: object) -> float | None:
    try:
        number = float(_text(value))
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
