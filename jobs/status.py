"""The reader's copy of job status in Redis. Never the truth, and never backwards.

A key holds one of two things: ``lease:<token>[@<bar>]`` while one reader is allowed to fill it,
or ``<version>.<progress>:<owner>:<id>:<seal>:<body>``. The rules, all kept in one Lua script per
write:

* A *fill* (after a miss, or at birth) creates a copy only while the key still holds the filler's
  own lease. If the lease was evicted, replaced or overwritten, what was read may be old: nothing is
  written. A reader without the lease is about to show what it read all the same, so its fill leaves
  that rank as a bar on the other's lease, below which the holder's fill is refused; and it replaces
  a copy of a lower rank.
* An *update* after a commit replaces a lower rank, leaves an equal or higher one, and deletes a
  foreign lease, whose holder may have read the row before this commit. It never creates a key: a
  late writer cannot know what was seen and evicted since. The exception is a state that no edge
  leaves, of which no newer version can exist. An update may also come without a copy: it deletes
  one of a lower rank, and the next reader asks the database.

Together: whatever is evicted, flushed, late or twice, no reader is shown a rank below one that an
earlier reader was shown from here. See docs/explanation/status.md for the cases.
"""

from __future__ import annotations

import hashlib
import json
import random
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache as once
from typing import Any, NamedTuple, Self
from uuid import UUID

import redis

from jobs import cache, conf, doorbells, seal
from jobs.values import Foretold, StatusView

#: Has ``one`` carry out each job's write. What is wrong with one key costs this key, keeps nothing
#: from the others, and is told at the end.
_EACH = """
local keys, width, failed = %(keys)d, %(width)d, nil
for i = 0, #KEYS / keys - 1 do
  local ok, problem = pcall(one, i * keys, i * width)
  if not ok then
    failed = problem
    pcall(redis.call, 'DEL', KEYS[i * keys + 1])
  end
end
if type(failed) == 'table' then failed = failed.err end
if failed then return redis.error_reply(failed) end
return 1
"""

_FILL = (
    """
local function one(k, a)
  local key, ours, value, life = KEYS[k + 1], tonumber(ARGV[a + 2]), ARGV[a + 4], ARGV[a + 5]
  local current = redis.call('GET', key)
  if not current then return end
  local token, version, seq = string.match(current, '^lease:([^@]*)@?(%d*)%.?(%d*)$')
  if not token then version, seq = string.match(current, '^(%d+)%.(%d+):') end
  if not version then return end
  local ahead = ours - (tonumber(version) or 0)
  if ahead == 0 then ahead = tonumber(ARGV[a + 3]) - (tonumber(seq) or 0) end
  if token == ARGV[a + 1] then
    if ahead < 0 then
      redis.call('DEL', key)
    else
      redis.call('SET', key, value, 'PX', life)
    end
  elseif token and ahead > 0 then
    local bar = 'lease:' .. token .. '@' .. ARGV[a + 2] .. '.' .. ARGV[a + 3]
    redis.call('SET', key, bar, 'KEEPTTL')
  elseif not token and ahead > 0 then
    redis.call('SET', key, value, 'PX', life)
  end
end
"""
    + _EACH % {"keys": 1, "width": 5}
)

_UPDATE = (
    """
local function one(k, a)
  local key, value, life = KEYS[k + 1], ARGV[a + 3], ARGV[a + 4]
  local ours, our_seq = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local current = redis.call('GET', key)
  if current and string.sub(current, 1, 6) == 'lease:' then
    redis.call('DEL', key)
  elseif current then
    local version, seq = string.match(current, '^(%d+)%.(%d+):')
    local older = not version or tonumber(version) < ours
      or (tonumber(version) == ours and tonumber(seq) < our_seq)
    if older and version and value ~= '' then
      redis.call('SET', key, value, 'PX', life)
    elseif older then
      redis.call('DEL', key)
    end
  end
  redis.call('PUBLISH', KEYS[k + 2], ARGV[a + 1] .. '.' .. ARGV[a + 2])
end
"""
    + _EACH % {"keys": 2, "width": 4}
)

#: An update by states that no edge leaves: nothing newer can be there, so nothing is compared. The
#: lives of copies that are made together end one after another, over the last tenth.
_CONCLUDE = """
local life = tonumber(ARGV[1])
for i = 1, #KEYS, 2 do
  local value = ARGV[(i + 3) / 2]
  redis.call('SET', KEYS[i], value, 'PX', math.ceil(life * (1 - 0.1 * i / #KEYS)))
  redis.call('PUBLISH', KEYS[i + 1], string.match(value, '^[^:]+'))
end
return 1
"""

#: Jobs per script: Redis serves nobody else while one runs.
_AT_ONCE = 500


class Copy(NamedTuple):
    """One cached status: enough to check the owner and answer without looking at the body."""

    version: int
    progress_seq: int
    owner_id: int | None
    body: bytes

    @property
    def rank(self) -> tuple[int, int]:
        return (self.version, self.progress_seq)

    @property
    def etag(self) -> str:
        return f'"{self.version}.{self.progress_seq}"'


def render(view: StatusView) -> Copy:
    """The bytes that every reader gets, whether they come from Redis or from the database."""
    return _rendered(view, str(view.job_id))


def _rendered(view: StatusView, written: str) -> Copy:
    """With the id as text. Written out, because building a dictionary for ``json.dumps`` takes
    longer, and this is done for every job."""
    base = f"{conf.get().api_prefix}jobs/{written}/"
    links = f'"self":{_text(base)}'
    if view.has_result:
        links += f',"result":{_text(base + "result/")}'
    result = "null" if view.result is None else json.dumps(view.result, separators=(",", ":"))
    submitted = _moment(view.submitted_at)
    # Mostly the same, and to write out a moment takes as long as all that is not one.
    due = submitted if view.due_at == view.submitted_at else _moment(view.due_at)
    body = (
        f'{{"id":"{written}"'
        f',"handler":{_text(view.handler)}'
        f',"queue":{_text(view.queue)}'
        f',"state":"{view.state.value}"'
        f',"version":{view.version}'
        f',"attempt":{view.attempt}'
        f',"failed_attempts":{view.failed_attempts}'
        f',"lost_attempts":{view.lost_attempts}'
        f',"max_attempts":{view.max_attempts}'
        f',"progress":{{"fraction":{view.progress.fraction!r}'
        f',"message":{_text(view.progress.message)}}}'
        f',"reason":{_text(view.reason)}'
        f',"cancel_requested":{_TRUTH[view.cancel_requested]}'
        f',"submitted_at":{submitted}'
        f',"due_at":{due}'
        f',"started_at":{_moment(view.started_at)}'
        f',"finished_at":{_moment(view.finished_at)}'
        f',"has_result":{_TRUTH[view.has_result]}'
        f',"result":{result}'
        f',"links":{{{links}}}}}'
    )
    return Copy(view.version, view.progress_seq, view.owner_id, body.encode())


#: A string as ``json.dumps`` writes it.
_text = json.encoder.encode_basestring_ascii
_TRUTH = {True: "true", False: "false"}


def _moment(moment: datetime | None) -> str:
    return "null" if moment is None else f'"{moment.isoformat()}"'


def read(job_ids: Sequence[UUID]) -> dict[UUID, Copy]:
    """The copies that Redis has, in one round trip; missing or broken ones are left out."""
    if not job_ids:
        return {}
    written = [str(job_id) for job_id in job_ids]
    values = cache.fetch(list(map(name_of, written)))
    if values is None:
        return {}
    found = zip(job_ids, map(copy_in, values, written), strict=True)
    return {job_id: copy for job_id, copy in found if copy is not None}


def name_of(job_id: UUID | str) -> str:
    """Where Redis has the copy of this job."""
    return f"{conf.get().cache_prefix}:s:{job_id}"


def copy_in(value: Any, job_id: str) -> Copy | None:
    """The copy in what Redis has of this job, whose id is given as ``str`` writes it.

    None for nothing, for a lease, and for what is not ours or another job's.
    """
    if not isinstance(value, bytes) or value.startswith(b"lease:"):
        return None
    try:
        rank, owner, name, mark, body = value.split(b":", 4)
        version, seq = rank.split(b".")
        head = value[: len(rank) + len(owner) + len(name) + 3]
        if name != job_id.encode() or not seal.is_good(mark, head + body):
            return None
        return Copy(int(version), int(seq), int(owner) if owner else None, body)
    except ValueError:
        return None


def reserve(job_ids: Iterable[UUID], token: str) -> None:
    """Ask for the right to fill missing keys; whoever holds a key's lease already keeps it."""
    life = round(conf.get().status_fill_seconds * 1000)

    def question(r: redis.Redis) -> None:
        with r.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.set(name_of(job_id), f"lease:{token}", nx=True, px=life)
            pipe.execute()

    cache.ask(question)


def fill(views: Iterable[StatusView], token: str) -> None:
    """Write copies under leases taken with ``reserve``, before the views were read."""
    _run(
        _in_scripts(
            _FILL,
            [
                (
                    (name_of(view.job_id),),
                    (token, *view.rank, _value(view, str(view.job_id)), _life(view)),
                )
                for view in views
            ],
        )
    )


def update(views: Iterable[StatusView], *, wake: bool = False, moving: bool = True) -> None:
    """Carry committed views to readers; with ``wake``, ring the relay in the same round trip.

    ``moving``: also those of jobs that have not come to their end. Without it these only lose their
    older copies, which costs a fraction.
    """
    news: list[_Write] = []
    conclusions: list[_Write] = []
    for view in views:
        written = str(view.job_id)
        keys = (name_of(written), channel_of(written))
        if view.is_immutable:
            conclusions.append((keys, (_value(view, written),)))
        else:
            value = _value(view, written) if moving else b""
            news.append((keys, (*view.rank, value, _life(view))))
    life = round(conf.get().status_final_ttl_seconds * 1000)
    _run([*_in_scripts(_UPDATE, news), *_in_scripts(_CONCLUDE, conclusions, life)], wake=wake)


#: The keys and the arguments of one job's write.
_Write = tuple[tuple[str, ...], tuple[str | bytes | int, ...]]


def wake(foretold: Foretold | None = None) -> None:
    """Ring the relay, and tell it which doorbell it will find, if there is but one.

    It looks by itself soon, so nobody waits for an answer.
    """
    cache.tell([_ring(b"1" if foretold is None else doorbells.foretelling(foretold))])


def _ring(said: bytes = b"1") -> cache.Command:
    return ("PUBLISH", wake_channel(), said)


#: A script, and what it is called with.
_Call = tuple[str, cache.Command]


def _in_scripts(script: str, writes: Sequence[_Write], *common: int) -> list[_Call]:
    """As few calls as may be. ``common`` comes before the jobs' own arguments."""
    calls: list[_Call] = []
    for start in range(0, len(writes), _AT_ONCE):
        some = writes[start : start + _AT_ONCE]
        keys = [key for of_one, _ in some for key in of_one]
        arguments = [argument for _, of_one in some for argument in of_one]
        calls.append((script, (len(keys), *keys, *common, *arguments)))
    return calls


def _run(calls: Sequence[_Call], *, wake: bool = False) -> None:
    """All in one round trip."""
    if not calls and not wake:
        return
    ring = [_ring()] if wake else []
    cache.carry_out(
        [*ring, *(("EVALSHA", _digest(script), *told) for script, told in calls)],
        [("EVAL", script, *told) for script, told in calls],
    )


@once
def _digest(script: str) -> str:
    """By which Redis knows a script that it has been told before."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def new_token() -> str:
    """A lease token that nobody else has."""
    return uuid.uuid4().hex


def wake_channel() -> str:
    """Where a submit tells the relay that there is something to publish."""
    return f"{conf.get().cache_prefix}:wake"


class Watch:
    """Waits for news of one job. Open it before looking, so that no news falls in between."""

    def __init__(self, job_id: UUID) -> None:
        self._job_id = job_id
        self._client: redis.Redis | None = None
        self._pubsub: Any = None

    def __enter__(self) -> Self:
        def question(_: redis.Redis) -> Any:
            self._client = cache.waiting_client(conf.get().cache_timeout_seconds)
            return cache.subscribed(self._client, channel_of(self._job_id))

        self._pubsub = cache.ask(question)
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def wait(self, seconds: float) -> bool:
        """True on news, False when time is up. None of both can be told without Redis: False."""
        if self._pubsub is None:
            return False
        pubsub = self._pubsub
        message = cache.ask(lambda _: pubsub.get_message(timeout=seconds), proves=False)
        return message is not None

    @property
    def works(self) -> bool:
        """Whether ``wait`` really waits; without Redis the caller must pace itself."""
        return self._pubsub is not None and not cache.breaker.is_open()


def channel_of(job_id: UUID | str) -> str:
    """Where updates of this job are told."""
    return f"{conf.get().cache_prefix}:c:{job_id}"


def _value(view: StatusView, written: str) -> bytes:
    copy = _rendered(view, written)
    owner = "" if copy.owner_id is None else str(copy.owner_id)
    head = f"{copy.version}.{copy.progress_seq}:{owner}:{written}:".encode()
    return head + seal.of(head + copy.body) + b":" + copy.body


def _life(view: StatusView) -> int:
    settings = conf.get()
    seconds = settings.status_ttl_seconds
    if view.is_immutable:
        seconds = settings.status_final_ttl_seconds
    # A little early and at random, so that copies made together do not expire together.
    return round(seconds * 1000 * random.uniform(0.9, 1.0))
