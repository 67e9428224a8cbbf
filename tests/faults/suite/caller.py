"""One thread's way to the API: kept connections, two processes to choose from, any answer survived.

An answer counts only once it was read completely and understood; everything else (refused, reset,
cut in the middle, too late, not JSON) is a reply with status 0 that says why.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tests.faults.suite.ledger import Ledger

TIMEOUT_SECONDS = 5.0
#: After trouble with one process, time during which the other is asked first.
AVOID_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Owner:
    """A user of the API and a key of theirs."""

    owner_id: int
    key: str

    @classmethod
    def all(cls, text: str) -> list[Self]:
        """Read a keys file: a JSON list of ``{"owner_id": 1, "key": "ilk_..."}``."""
        return [cls(int(entry["owner_id"]), str(entry["key"])) for entry in json.loads(text)]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. Times are seconds since the epoch; ``status`` 0: no whole answer."""

    status: int
    body: Any
    headers: Mapping[str, str]
    error: str
    began: float
    ended: float

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def doubtful(self) -> bool:
        """Nobody can tell from this whether the request was carried out."""
        return self.status == 0 or self.status >= 500


@dataclass
class Caller:
    """Asks the API processes at ``ports`` in turn, and the others when one is in trouble.

    With ``stays`` it asks the first as long as that answers. For one thread only. Every request
    becomes a line of the ledger.
    """

    ports: Sequence[int]
    ledger: Ledger
    timeout_seconds: float = TIMEOUT_SECONDS
    stays: bool = False
    _kept: dict[int, http.client.HTTPConnection] = field(default_factory=dict)
    _avoid: dict[int, float] = field(default_factory=dict)
    _turn: int = 0

    def ask(
        self,
        what: str,
        owner: Owner,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Ask once; ``what`` names the request in the ledger. No answer makes it raise."""
        port, began = self._port(), time.time()
        try:
            status, names, content = self._exchange(port, owner, method, path, body, headers or {})
            parsed = json.loads(content) if content else None
            error = str(parsed["code"]) if status >= 400 and parsed else ""
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as trouble:
            self._drop(port)
            status, names, parsed = 0, {}, None
            error = f"{type(trouble).__name__}: {trouble}"[:200]
        ended = time.time()
        self.ledger.answered(what, status, ended - began, error)
        return Reply(status, parsed, names, error, began, ended)

    def close(self) -> None:
        """Hang up everywhere."""
        while self._kept:
            self._kept.popitem()[1].close()

    def _exchange(
        self, port: int, owner: Owner, method: str, path: str, body: Any, more: Mapping[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        connection = self._kept.get(port)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, self.timeout_seconds)
            self._kept[port] = connection
        content = None if body is None else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {owner.key}", "Content-Type": "application/json"}
        connection.request(method, path, content, {**sent, **more})
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, names, answer.read()

    def _port(self) -> int:
        self._turn += not self.stays
        order = [self.ports[(self._turn + i) % len(self.ports)] for i in range(len(self.ports))]
        now = time.monotonic()
        return next((port for port in order if self._avoid.get(port, 0.0) < now), order[0])

    def _drop(self, port: int) -> None:
        self._avoid[port] = time.monotonic() + AVOID_SECONDS
        connection = self._kept.pop(port, None)
        if connection is not None:
            connection.close()


class Callers:
    """A caller for each thread that asks for one."""

    def __init__(self, ports: Sequence[int], ledger: Ledger) -> None:
        self._ports = ports
        self._ledger = ledger
        self._local = threading.local()
        self._made: list[Caller] = []

    def mine(self) -> Caller:
        """This thread's caller."""
        found: Caller | None = getattr(self._local, "caller", None)
        if found is None:
            found = self._local.caller = Caller(self._ports, self._ledger)
            self._made.append(found)
        return found

    def close(self) -> None:
        """Hang up for all threads, which must have ended."""
        while self._made:
            self._made.pop().close()
