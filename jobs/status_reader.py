"""Status for every reader (API, admin, streams): from Redis, else from PostgreSQL, never backwards.

One place decides when the copy is good enough, asks for the right to refill it before reading the
row, and lets simultaneous misses of one job share one query.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from uuid import UUID

from jobs import cache, conf, status
from jobs.querysets import read_views
from jobs.states import FINAL, JobState
from jobs.status import Copy

Rank = tuple[int, int]

#: Below any rank that a job can have.
NOTHING_SEEN: Rank = (0, 0)

#: Longest time that a reader relies on another reader's query before it asks for itself.
_PATIENCE_SECONDS = 2.0
#: Longest wait for news before looking again: bounds the harm of news that was lost on its way.
LOOK_AGAIN_SECONDS = 2.0
#: Jobs whose last shown rank a process remembers, a few hundred bytes each.
_FLOORS = 20_000
_NEVER_READ = (NOTHING_SEEN, float("-inf"))
#: Pace of looking when Redis cannot tell news.
PACE_SECONDS = 0.5


def one(job_id: UUID, at_least: Rank = NOTHING_SEEN) -> Copy | None:
    """The job's status, or None for an unknown id. No SQL while Redis has a copy to be trusted.

    ``at_least`` is what the reader has seen before: a copy below it is not shown, the row is read
    instead, and the copy is brought forward.
    """
    at_least = max(at_least, _floors.of(job_id))
    copy = status.read([job_id]).get(job_id)
    if copy is not None and is_believed(job_id, copy, at_least):
        return copy
    if copy is None or copy.rank >= at_least:
        copy = _flights.board(job_id)
    if copy is not None and copy.rank < at_least:
        return _from_row(job_id, behind=True)
    return copy


def many(
    job_ids: Sequence[UUID], at_least: Mapping[UUID, Rank] = MappingProxyType({})
) -> dict[UUID, Copy]:
    """What is known of these jobs: one Redis round trip for the copies, one query for the rest.

    ``at_least`` as in ``one``, by job.
    """
    copies = status.read(job_ids)
    behind = [
        job_id
        for job_id, copy in copies.items()
        if not is_believed(job_id, copy, at_least.get(job_id, NOTHING_SEEN))
    ]
    missing = [job_id for job_id in job_ids if job_id not in copies]
    if missing or behind:
        copies |= _from_rows([*missing, *behind], behind=behind)
    return copies


def is_believed(job_id: UUID | str, copy: Copy, at_least: Rank = NOTHING_SEEN) -> bool:
    """Whether a copy may be shown as it is: to nobody was more shown, for all that is known here.

    Not a copy below ``at_least``, which the reader has seen, and not one below what this process
    has shown from the row; after an outage of Redis only what was compared with its row since. The
    id may also be given as ``str`` writes it.
    """
    rank = copy.rank
    return rank >= at_least and rank >= _floors.of(job_id) and _is_trusted(job_id, copy)


def _is_trusted(job_id: UUID | str, copy: Copy) -> bool:
    """Whether a copy is as new as anything that others were shown.

    While Redis fails, news of commits is lost and readers get rows. What Redis still holds
    afterwards may be older than that, until it has expired or this process has compared it with
    the row, once all writers had noticed that Redis is back. COMPLETED is the end in any case.
    """
    # Commands that were under way when Redis failed may be carried out as late as it answers again.
    if time.monotonic() - cache.breaker.answers_since > conf.get().status_ttl_seconds:
        return True
    return b'"state":"COMPLETED"' in copy.body or _floors.read_at(job_id) > _noticed_at()


def is_settled() -> bool:
    """Whether all writers have noticed that Redis answers: a copy compared now stays believed."""
    return time.monotonic() > _noticed_at()


def _noticed_at() -> float:
    settings = conf.get()
    patience = settings.cache_retry_seconds + 2 * settings.cache_timeout_seconds
    return cache.breaker.answers_since + patience


def wait(job_id: UUID, rank: Rank, seconds: float) -> Copy | None:
    """The status as soon as its rank is another than ``rank``, or whatever it is after ``seconds``.

    Answers at once when the job has ended, or when this process has no slot for another waiter.
    """
    with _slot() as free:
        if not free:
            return one(job_id, at_least=rank)
        with status.Watch(job_id) as watch:
            return _watched(watch, job_id, rank, time.monotonic() + seconds)


def is_final(copy: Copy) -> bool:
    """Whether the job had ended when this copy was made."""
    return JobState(json.loads(copy.body)["state"]) in FINAL


def _watched(watch: status.Watch, job_id: UUID, rank: Rank, until: float) -> Copy | None:
    copy = one(job_id, at_least=rank)
    while copy is not None and copy.rank == rank and not is_final(copy):
        left = until - time.monotonic()
        if left <= 0:
            break
        if watch.works:
            watch.wait(min(left, LOOK_AGAIN_SECONDS))
        else:
            time.sleep(min(left, PACE_SECONDS))
        copy = one(job_id, at_least=rank)
    return copy


def _from_rows(job_ids: Sequence[UUID], behind: Collection[UUID] = ()) -> dict[UUID, Copy]:
    token = status.new_token()
    # Before the read: a lease taken afterwards would let an old row overwrite a newer copy.
    status.reserve(job_ids, token)
    read_at = time.monotonic()
    views = read_views(job_ids, conf.get().inline_result_limit_bytes)
    status.fill((view for view in views if view.job_id not in behind), token)
    status.update(view for view in views if view.job_id in behind)
    copies = {view.job_id: status.render(view) for view in views}
    _floors.raise_to(copies, read_at)
    return copies


def _from_row(job_id: UUID, *, behind: bool = False) -> Copy | None:
    return _from_rows([job_id], behind=[job_id] if behind else ()).get(job_id)


class _Floors:
    """What this process has lately shown from the database, below which it shows nothing.

    While Redis is away, readers get rows, and news of commits is lost: once it is back, its copies
    are older than what was shown, until they expire. Whoever meets such a copy here brings it
    forward for everybody. Bounded in number and in time: no copy lives longer than its TTL, and no
    late refill comes after its lease.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ranks: OrderedDict[UUID, tuple[Rank, float]] = OrderedDict()
        #: When the newest of these was read. Most readers come later than any of them counts.
        self._last_read_at = float("-inf")

    def of(self, job_id: UUID | str) -> Rank:
        settings = conf.get()
        life = settings.status_ttl_seconds + settings.status_fill_seconds
        now = time.monotonic()
        if now >= self._last_read_at + life:
            return NOTHING_SEEN
        rank, read_at = self._known(job_id)
        return rank if now < read_at + life else NOTHING_SEEN

    def read_at(self, job_id: UUID | str) -> float:
        """When the reading of the row began that was last shown, on the monotonic clock."""
        return self._known(job_id)[1]

    def _known(self, job_id: UUID | str) -> tuple[Rank, float]:
        key = job_id if isinstance(job_id, UUID) else UUID(job_id)
        return self._ranks.get(key, _NEVER_READ)

    def raise_to(self, copies: Mapping[UUID, Copy], read_at: float) -> None:
        """Rows that were read from ``read_at`` on are shown."""
        with self._lock:
            self._last_read_at = max(self._last_read_at, read_at)
            for job_id, copy in copies.items():
                rank = max(copy.rank, self.of(job_id))
                self._ranks[job_id] = (rank, max(read_at, self.read_at(job_id)))
                self._ranks.move_to_end(job_id)
            while len(self._ranks) > _FLOORS:
                self._ranks.popitem(last=False)


class _Flight:
    def __init__(self, earlier: _Flight | None) -> None:
        self.earlier = earlier
        self.landed = threading.Event()
        self.copy: Copy | None = None
        self.error: BaseException | None = None


class _Flights:
    """Lets the readers that miss the same job at the same time share one query.

    Nobody joins a query that has begun: what it sees may be older than what another reader was
    shown since. Late comers share the next one, which begins when the present one has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._boarding: dict[UUID, _Flight] = {}
        self._flying: dict[UUID, _Flight] = {}

    def board(self, job_id: UUID) -> Copy | None:
        with self._lock:
            flight = self._boarding.get(job_id)
            first = flight is None
            if flight is None:
                flight = _Flight(self._flying.get(job_id))
                self._boarding[job_id] = flight
        if first:
            self._fly(job_id, flight)
        elif not flight.landed.wait(_PATIENCE_SECONDS):
            return _from_row(job_id)
        if flight.error is not None:
            raise flight.error
        return flight.copy

    def _fly(self, job_id: UUID, flight: _Flight) -> None:
        earlier, flight.earlier = flight.earlier, None
        if earlier is not None:
            earlier.landed.wait(_PATIENCE_SECONDS)
        with self._lock:
            del self._boarding[job_id]
            self._flying[job_id] = flight
        try:
            # The earlier query has usually refilled the copy.
            copy = status.read([job_id]).get(job_id) if earlier is not None else None
            trusted = copy is not None and _is_trusted(job_id, copy)
            flight.copy = copy if trusted else _from_row(job_id)
        except BaseException as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                if self._flying.get(job_id) is flight:
                    del self._flying[job_id]
            flight.landed.set()


class _Slots:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0

    def take(self, most: int) -> bool:
        with self._lock:
            if self._taken >= most:
                return False
            self._taken += 1
            return True

    def give_back(self) -> None:
        with self._lock:
            self._taken -= 1


@contextmanager
def _slot() -> Iterator[bool]:
    taken = _slots.take(conf.get().wait_slots)
    try:
        yield taken
    finally:
        if taken:
            _slots.give_back()


_floors = _Floors()
_flights = _Flights()
_slots = _Slots()
