"""Reads the ledger: what a harness outside of the platform was told, as NDJSON files.

accepted.ndjson  one line per job in a 2xx answer to a submit
seen.ndjson      one line per status that a reader was shown
accessed.ndjson  one line per access to a job, also by intruders
silences.ndjson  times in which the broker could confirm nothing

A kind may be spread over several files: ``seen-1.ndjson`` counts as ``seen``. Files are streamed.
The last line of a file may be torn, because its writer may have been killed; any other line that
cannot be read makes the ledger useless as a witness, and is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID

from jobs.errors import CannotVerify
from jobs.verification.windows import Silence

T = TypeVar("T")

KINDS = ("accepted", "seen", "accessed", "silences")
#: Silences are kept in memory and compared with every published row.
SILENCES_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Accepted:
    """The API said yes to this job."""

    job_id: str
    owner_id: str
    key: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """A reader was shown this status by a request that lasted from ``began`` to ``ended``."""

    job_id: str
    version: int
    seq: int
    state: str
    reader: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Accessed:
    """A principal asked for a job and got an answer with this status."""

    job_id: str
    principal_id: str
    owner_id: str
    status: int


class Ledger:
    """One directory of such files. Raises CannotVerify for what is not there or not readable."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        #: Files whose last line was torn.
        self.torn: set[Path] = set()
        if not any(self.files(kind) for kind in KINDS):
            raise CannotVerify(f"{directory} holds no ledger: none of {', '.join(KINDS)}.ndjson")

    def files(self, kind: str) -> list[Path]:
        """The files of one kind."""
        return sorted(
            path
            for path in self._directory.glob(f"{kind}*.ndjson")
            if path.stem == kind or path.stem.startswith(f"{kind}-")
        )

    def bytes(self, kind: str) -> int:
        """How large one kind is."""
        return sum(path.stat().st_size for path in self.files(kind))

    def accepted(self) -> Iterator[Accepted]:
        return self._lines("accepted", _accepted)

    def seen(self) -> Iterator[Seen]:
        return self._lines("seen", _seen)

    def accessed(self) -> Iterator[Accessed]:
        return self._lines("accessed", _accessed)

    def silences(self) -> list[Silence]:
        """All of them. Raises CannotVerify if they are too many."""
        found: list[Silence] = []
        for silence in self._lines("silences", _silence):
            if len(found) == SILENCES_LIMIT:
                raise CannotVerify(f"more than {SILENCES_LIMIT} silences")
            found.append(silence)
        return found

    def _lines(self, kind: str, made_of: Callable[[Mapping[str, Any]], T]) -> Iterator[T]:
        for path in self.files(kind):
            reader = _File(path, made_of)
            yield from reader
            if reader.torn:
                self.torn.add(path)


class _File(Generic[T]):
    """The lines of one file; ``torn`` says afterwards whether the last one was left out."""

    def __init__(self, path: Path, made_of: Callable[[Mapping[str, Any]], T]) -> None:
        self._path = path
        self._made_of = made_of
        self.torn = False

    def __iter__(self) -> Iterator[T]:
        broken: CannotVerify | None = None
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if broken is not None:
                    raise broken
                try:
                    yield self._made_of(json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    broken = CannotVerify(f"{self._path}:{number}: {type(error).__name__} {error}")
        self.torn = broken is not None


def _accepted(line: Mapping[str, Any]) -> Accepted:
    return Accepted(_id(line["job_id"]), _owner(line["owner_id"]), line["idempotency_key"])


def _seen(line: Mapping[str, Any]) -> Seen:
    return Seen(
        _id(line["job_id"]),
        int(line["version"]),
        int(line["seq"]),
        str(line["state"]),
        str(line["reader"]),
        float(line["began"]),
        float(line["ended"]),
    )


def _accessed(line: Mapping[str, Any]) -> Accessed:
    return Accessed(
        _id(line["job_id"]),
        _owner(line["principal_id"]),
        _owner(line["owner_id"]),
        int(line["status"]),
    )


def _silence(line: Mapping[str, Any]) -> Silence:
    return Silence(float(line["began"]), float(line["ended"]))


def _id(value: Any) -> str:
    return str(UUID(value))


def _owner(value: Any) -> str:
    """As the database writes it; nobody is the empty text."""
    return "" if value is None else str(value)
