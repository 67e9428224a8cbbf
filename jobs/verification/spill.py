"""Finds what occurs twice among more than fits into memory: parts on disk, one looked at a time.

Whether a claim's token was ever used before, by any job, is a question that no window can answer.
Asked of PostgreSQL it needs an index on every token for ever, which every claim would pay for, or
one statement over the whole audit per slice of tokens, each holding its snapshot for as long as the
table is long. Instead every window gives out its tokens with the entries that it reads anyway, and
they are sorted into slices by their first byte here: two values of one slice are compared in
memory, values of two slices cannot be equal. 10 million claims are 320 MB of temporary files and
never more than some tens of megabytes of memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Self
from uuid import UUID

SLICES = 128
KEY = 16
RECORD = 32


class Parts:
    """Numbered temporary files, each written to its end and then read once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._files: dict[int, IO[bytes]] = {}
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def put(self, number: int, data: bytes) -> None:
        """Append to one part."""
        file = self._files.get(number)
        if file is None:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the exit stack
            self._files[number] = self._exits.enter_context(file)
        file.write(data)

    def read(self) -> Iterator[IO[bytes]]:
        """Each part that holds something, from its beginning."""
        for _, file in sorted(self._files.items()):
            file.seek(0)
            yield file


class Keys:
    """Records of 32 bytes: a key that should occur once, and the job that has it."""

    def __init__(self) -> None:
        self._parts = Parts(SLICES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.__exit__()

    def add(self, records: bytes) -> None:
        """Any number of records, one after the other."""
        for start in range(0, len(records), RECORD):
            record = records[start : start + RECORD]
            self._parts.put(record[0] * SLICES // 256, record)

    def repeated(self) -> Iterator[list[UUID]]:
        """For each key that occurs more than once, the jobs that have it, with repeats."""
        for part in self._parts.read():
            data = part.read()
            records = sorted(data[at : at + RECORD] for at in range(0, len(data), RECORD))
            group: list[bytes] = []
            for record in records:
                if group and group[0][:KEY] != record[:KEY]:
                    yield from _several(group)
                    group = []
                group.append(record)
            yield from _several(group)


def _several(group: list[bytes]) -> Iterator[list[UUID]]:
    if len(group) > 1:
        yield [UUID(bytes=record[KEY:]) for record in group]
