"""The harness's own memory of what the API said: append-only files that no fault can reach.

One NDJSON file per kind in one directory. Every line is one ``write`` to a file opened for
appending, so that several processes may share a file and a killed one leaves whole lines. Times are
seconds since the epoch of this machine, whose clock is also the database's.

accepted  one line per job in a 2xx answer to a submit, written after the whole answer was read
seen      one line per status that a reader was shown
accessed  one line per access to a job that somebody tried, with the status of the answer
answers   one line per request, also of those that failed: what, status (0: none came), seconds, at
unknown   submits whose answer was lost, and what became of them when asked again
surprises answers that must never be given, as the client met them: invariant, text, at
silences  periods in which the broker could confirm nothing
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

Kind = Literal["accepted", "seen", "accessed", "answers", "unknown", "surprises", "silences"]


class Ledger:
    """Writes into one directory. Safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._files: dict[Kind, int] = {}
        self._opening = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    def accepted(
        self, job_id: str, owner_id: int, idempotency_key: str | None, status: int
    ) -> None:
        self._write(
            "accepted",
            job_id=job_id,
            owner_id=owner_id,
            idempotency_key=idempotency_key,
            status=status,
            at=time.time(),
        )

    def seen(
        self,
        reader: str,
        job_id: str,
        rank: tuple[int, int],
        state: str,
        began: float,
        ended: float,
    ) -> None:
        """``rank`` is (version, progress_seq); seq 0 where the answer does not tell."""
        self._write(
            "seen",
            reader=reader,
            job_id=job_id,
            version=rank[0],
            seq=rank[1],
            state=state,
            began=began,
            ended=ended,
        )

    def accessed(self, principal_id: int, job_id: str, owner_id: int, status: int) -> None:
        self._write(
            "accessed",
            principal_id=principal_id,
            job_id=job_id,
            owner_id=owner_id,
            status=status,
            at=time.time(),
        )

    def answered(self, what: str, status: int, seconds: float, error: str) -> None:
        """``status`` 0 means that no whole answer came, and ``error`` says why."""
        self._write(
            "answers",
            what=what,
            status=status,
            seconds=round(seconds, 4),
            at=time.time(),
            error=error,
        )

    def unknown(self, key: str | None, owner_id: int, jobs: int, outcome: str) -> None:
        """A submit of ``jobs`` jobs whose answer was lost; ``outcome`` is how that ended."""
        self._write(
            "unknown",
            idempotency_key=key,
            owner_id=owner_id,
            jobs=jobs,
            outcome=outcome,
            at=time.time(),
        )

    def surprise(self, invariant: str, text: str) -> None:
        """An answer that breaks ``invariant`` by itself, whatever the tables say."""
        self._write("surprises", invariant=invariant, text=text[:500], at=time.time())

    def silence(self, began: float, ended: float, what: str) -> None:
        self._write("silences", began=began, ended=ended, what=what)

    def _write(self, kind: Kind, **line: Any) -> None:
        file = self._files.get(kind) or self._open(kind)
        os.write(file, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def _open(self, kind: Kind) -> int:
        with self._opening:
            if kind not in self._files:
                flags = os.O_APPEND | os.O_CREAT | os.O_WRONLY
                self._files[kind] = os.open(self._directory / f"{kind}.ndjson", flags, 0o644)
            return self._files[kind]


def lines(directory: Path, kind: Kind) -> Iterator[dict[str, Any]]:
    """Every line of one kind, in the order written; none if nobody wrote any."""
    path = directory / f"{kind}.ndjson"
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
