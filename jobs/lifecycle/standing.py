"""Who answers for a submission that made no job of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Q

from jobs import transactions
from jobs.errors import FieldProblem, IdempotencyConflict
from jobs.lifecycle.wanted import Wanted
from jobs.lifecycle.writing import execute
from jobs.models import IdempotencyKey, Job
from jobs.states import ACTIVE, JobState
from jobs.values import Accepted


class Found(NamedTuple):
    """What is read of a job that may answer."""

    id: UUID
    state: str
    version: int
    fingerprint: str | None

    def answer(self, *, created: bool) -> Accepted:
        return Accepted(self.id, JobState(self.state), self.version, created)


class Key(NamedTuple):
    """A taken idempotency key; ``answered_by`` is None where the job of the same id answers."""

    id: UUID
    answered_by: UUID | None
    fingerprint: str | None

    @property
    def job_id(self) -> UUID:
        return self.answered_by or self.id


@dataclass(slots=True)
class Standing:
    """The jobs that stand where ``rows`` could not be inserted, read in at most four queries."""

    rows: list[Wanted]
    _keys: dict[tuple[Any, ...], Key] = field(init=False)
    _by_id: dict[tuple[Any, ...], Found] = field(init=False)
    _by_key: dict[tuple[Any, ...], Found] = field(init=False)
    _by_unique_key: dict[tuple[Any, ...], Found] = field(init=False)
    #: Keys that were taken for these rows, and the standing jobs that answer them.
    _answered: dict[UUID, Found] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._keys = _taken_keys(self.rows)
        ids = {row.id for row in self.rows} | {key.job_id for key in self._keys.values()}
        self._by_id = _read(Q(id__in=ids), "id")
        left = [row for row in self.rows if self._known(row) is None]
        self._by_key = _in_their_rows(left)
        self._by_unique_key = _active(left)

    def instead_of(self, row: Wanted, index: int) -> Accepted:
        """The answer to ``row``, asked in the order of the rows.

        Raises IdempotencyConflict if its key stands for another wish, and TryAgain if nobody stands
        there any more.
        """
        own = self._by_id.get((row.id,))
        if own is not None:
            # Our own insert, whose commit succeeded although its answer was lost.
            return own.answer(created=True)
        key = self._keys.get(_key(row))
        if key is not None:
            _require_same(key.fingerprint, row, index)
        found = self._known(row) or self._standing(row, index)
        if found is None:
            # A unique key's holder ended, or a key's job was deleted, between insert and look.
            raise transactions.TryAgain("the job with this key has just ended")
        if key is not None and key.job_id != found.id:
            self._answered[key.id] = found
        return found.answer(created=False)

    def note(self) -> None:
        """Write down which jobs answered the keys that were taken in vain."""
        if not self._answered:
            return
        rows = [
            {"id": str(key_id), "answered_by": str(found.id)}
            for key_id, found in self._answered.items()
        ]
        ids = "{" + ",".join({row["answered_by"] for row in rows}) + "}"
        if execute("answer_keys", {"rows": json.dumps(rows), "ids": ids}) != len(rows):
            raise transactions.TryAgain("the job with this key has just been deleted")

    def _known(self, row: Wanted) -> Found | None:
        """The job that the row's own id or its idempotency key names."""
        found = self._by_id.get((row.id,))
        key = self._keys.get(_key(row))
        if found is None and key is not None:
            found = self._answered.get(key.id) or self._by_id.get((key.job_id,))
        return found

    def _standing(self, row: Wanted, index: int) -> Found | None:
        found = self._by_key.get(_key(row))
        if found is not None:
            _require_same(found.fingerprint, row, index)
            return found
        return self._by_unique_key.get(_unique_key(row))


def _require_same(fingerprint: str | None, row: Wanted, index: int) -> None:
    if fingerprint != row.fingerprint:
        text = f"key {row.idempotency_key!r} was used before with another request"
        raise IdempotencyConflict([FieldProblem("idempotency_key", text, "conflict", index)])


def _key(row: Wanted) -> tuple[Any, ...]:
    return row.owner_id, row.idempotency_key


def _unique_key(row: Wanted) -> tuple[Any, ...]:
    return row.owner_id, row.handler, row.unique_key


def _taken_keys(rows: list[Wanted]) -> dict[tuple[Any, ...], Key]:
    keyed = [row for row in rows if row.idempotency_key is not None]
    if not keyed:
        return {}
    wanted = _owners(keyed) & Q(key__in={row.idempotency_key for row in keyed})
    keys = IdempotencyKey.objects.filter(wanted).values_list("owner_id", "key", *Key._fields)
    return {(owner_id, key): Key(*rest) for owner_id, key, *rest in keys}


def _in_their_rows(rows: list[Wanted]) -> dict[tuple[Any, ...], Found]:
    """Jobs with these keys in their rows alone, as older processes and psql insert them."""
    keyed = [row for row in rows if row.idempotency_key is not None]
    if not keyed:
        return {}
    keys = Q(idempotency_key__in={row.idempotency_key for row in keyed})
    return _read(_owners(keyed) & keys, "owner_id", "idempotency_key")


def _active(rows: list[Wanted]) -> dict[tuple[Any, ...], Found]:
    unique = [row for row in rows if row.unique_key is not None]
    if not unique:
        return {}
    active = Q(
        handler__in={row.handler for row in unique},
        unique_key__in={row.unique_key for row in unique},
        state__in=list(ACTIVE),
    )
    return _read(_owners(unique) & active, "owner_id", "handler", "unique_key")


def _owners(rows: Iterable[Wanted]) -> Q:
    """These rows' owners; None is the system."""
    ids = {row.owner_id for row in rows}
    people = Q(owner_id__in=ids - {None})
    return people | Q(owner_id=None) if None in ids else people


def _read(condition: Q, *key: str) -> dict[tuple[Any, ...], Found]:
    rows = Job.objects.filter(condition).values_list(*key, *Found._fields)
    return {row[: len(key)]: Found(*row[len(key) :]) for row in rows}
