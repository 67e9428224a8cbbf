"""Readers of statuses, and intruders: what each was shown goes to the ledger with its times.

Every reader is one thread with a name of its own, because the promise is per reader and across
readers. ``plain`` and ``tag`` readers stay with one API process as long as it answers, ``watch``
and ``wait`` take them in turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.faults.suite.book import Book, Known
from tests.faults.suite.caller import Caller, Owner, Reply
from tests.faults.suite.ledger import Ledger

#: How often every unfinished job is looked at in bulk.
WATCH_SECONDS = 1.0
#: What a waiting reader asks for; below the client's own timeout.
WAIT_SECONDS = 2
WAITERS = 2
#: Attempts of strangers per second.
INTRUSIONS = 4.0


class Readers:
    """All readers; they run until the event given to ``start`` is set."""

    def __init__(
        self,
        book: Book,
        ledger: Ledger,
        owners: Sequence[Owner],
        ports: Sequence[int],
        *,
        seed: int,
        per_second: float,
    ) -> None:
        """``per_second``: status reads on average, over all readers of single statuses."""
        self._book = book
        self._ledger = ledger
        self._owners = owners
        self._ports = list(ports)
        self._seed = seed
        self._seconds_each = 2 * len(ports) / per_second
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()

    def start(self, ended: threading.Event) -> None:
        self._ended = ended
        for port in self._ports:
            # Its own process first, the others only in trouble.
            order = [port, *(other for other in self._ports if other != port)]
            self._run(f"plain-{port}", order, self._read_plain, self._seconds_each)
            self._run(f"tag-{port}", order, self._read_with_tag, self._seconds_each)
        for number in range(WAITERS):
            self._run(f"wait-{number}", self._ports, self._wait_for_news, 0.05)
        self._run("watch", self._ports, self._watch, WATCH_SECONDS)
        self._run("intruder", self._ports, self._intrude, 1 / INTRUSIONS)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)

    def _run(
        self,
        name: str,
        ports: Sequence[int],
        step: Callable[[Reader], None],
        mean_seconds: float,
    ) -> None:
        rng = Random(f"{self._seed} {name}")
        stays = name.startswith(("plain", "tag"))
        reader = Reader(name, rng, Caller(ports, self._ledger, stays=stays))

        def loop() -> None:
            while not self._ended.wait(rng.uniform(0.5, 1.5) * mean_seconds):
                step(reader)

        thread = threading.Thread(target=loop, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    # -- readers of their own jobs

    def _read_plain(self, reader: Reader) -> None:
        job = self._book.any(reader.rng)
        if job is not None:
            self._shown(reader, job, reader.get("status", job.owner, job.job_id))

    def _read_with_tag(self, reader: Reader) -> None:
        job = self._book.any(reader.rng)
        if job is None:
            return
        tag = job.tags.get(reader.name)
        headers = {} if tag is None else {"If-None-Match": tag}
        reply = reader.get("status with tag", job.owner, job.job_id, headers=headers)
        if reply.status != 304:
            self._shown(reader, job, reply)
        elif tag is None or reply.headers.get("etag") != tag:
            self._ledger.surprise("I10", f"304 with {reply.headers.get('etag')} for tag {tag}")

    def _wait_for_news(self, reader: Reader) -> None:
        job = self._book.any(reader.rng, active=1.0)
        if job is not None:
            query = f"?wait={WAIT_SECONDS}"
            self._shown(reader, job, reader.get("wait", job.owner, job.job_id, query))

    def _watch(self, reader: Reader) -> None:
        jobs = self._book.active()
        for owner in self._owners:
            ids = [job.job_id for job in jobs if job.owner is owner][:1000]
            if ids:
                self._watch_some(reader, owner, ids)

    def _watch_some(self, reader: Reader, owner: Owner, ids: list[str]) -> None:
        reply = reader.caller.ask("statuses", owner, "POST", "/api/v1/jobs/status/", {"ids": ids})
        if not reply.good:
            return
        for body in reply.body["statuses"]:
            self._note(reader, body, (body["version"], 0), reply)
        for job_id in reply.body["missing"]:
            self._ledger.surprise("I1", f"{reader.name}: its owner's {job_id} is missing")

    def _shown(self, reader: Reader, job: Known, reply: Reply) -> None:
        if reply.good:
            tag = reply.headers.get("etag", "")
            job.tags[reader.name] = tag
            self._note(reader, reply.body, _rank(tag, reply.body), reply)
        elif reply.status == 404:
            self._ledger.surprise("I1", f"{reader.name}: its owner's {job.job_id} answered 404")
        elif not reply.doubtful:
            self._ledger.surprise("API", f"{reader.name}: {reply.status} {reply.body}")

    def _note(
        self, reader: Reader, body: dict[str, Any], rank: tuple[int, int], reply: Reply
    ) -> None:
        self._ledger.seen(reader.name, body["id"], rank, body["state"], reply.began, reply.ended)
        self._book.saw(body["id"], body["version"], body["state"])

    # -- strangers

    def _intrude(self, reader: Reader) -> None:
        job = self._book.any(reader.rng, active=0.6)
        strangers = [owner for owner in self._owners if job is not None and owner is not job.owner]
        if job is None or not strangers:
            return
        stranger = reader.rng.choice(strangers)
        if reader.rng.random() < 0.2:
            self._intrude_in_bulk(reader, stranger, job)
            return
        method, path = reader.rng.choice(_WAYS_IN)
        body = {"reason": "not mine"} if method == "POST" else None
        where = f"/api/v1/jobs/{job.job_id}/{path}"
        reply = reader.caller.ask("intrusion", stranger, method, where, body)
        if not reply.doubtful:
            self._ledger.accessed(stranger.owner_id, job.job_id, job.owner.owner_id, reply.status)
        if reply.status != 404 and not reply.doubtful and not reply.good:
            self._ledger.surprise("I13", f"a stranger's {method} {path} answered {reply.status}")

    def _intrude_in_bulk(self, reader: Reader, stranger: Owner, job: Known) -> None:
        """A list may be answered 200, but with nothing of others in it."""
        body = {"ids": [job.job_id]}
        reply = reader.caller.ask("intrusion", stranger, "POST", "/api/v1/jobs/status/", body)
        if not reply.doubtful:
            shown = reply.good and bool(reply.body["statuses"])
            status = reply.status if shown else 404
            self._ledger.accessed(stranger.owner_id, job.job_id, job.owner.owner_id, status)


_WAYS_IN = (
    ("GET", "status/"),
    ("GET", ""),
    ("GET", "transitions/"),
    ("GET", "log/"),
    ("GET", "result/"),
    ("POST", "cancel/"),
    ("POST", "retry/"),
)


class Reader:
    """One thread's name, dice and connections."""

    def __init__(self, name: str, rng: Random, caller: Caller) -> None:
        self.name = name
        self.rng = rng
        self.caller = caller

    def get(
        self,
        what: str,
        owner: Owner,
        job_id: str,
        query: str = "",
        headers: dict[str, str] | None = None,
    ) -> Reply:
        path = f"/api/v1/jobs/{job_id}/status/{query}"
        return self.caller.ask(what, owner, "GET", path, headers=headers)


def _rank(tag: str, body: dict[str, Any]) -> tuple[int, int]:
    """(version, progress_seq) of a status answer; its tag alone tells the second."""
    try:
        version, seq = tag.strip('W/"').split(".")
        return int(version), int(seq)
    except ValueError:
        return int(body["version"]), 0
