"""The load: submits, repeats, cancels, retries and readers, against any state of the platform.

    python -m tests.faults.suite.load --directory D --ports P1,P2 --keys FILE --seed N --rate R

Runs until SIGTERM or ``--seconds``; then waits a bounded time for the submits whose answers were
lost, and ends with 0. It survives every answer and asks nothing of the database: how many jobs are
unfinished it knows from the statuses that its readers were shown, and with ``--most`` of them it
submits no more until some have ended.
"""

from __future__ import annotations

import argparse
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from tests.faults.suite.book import Book
from tests.faults.suite.caller import Callers, Owner, Reply
from tests.faults.suite.ledger import Ledger
from tests.faults.suite.readers import Readers
from tests.faults.suite.wishes import Wish, Wisher

#: Shares of submits that are sent twice at once, once more later, and once with another body.
TWINS, AGAIN, OTHERWISE = 0.06, 0.04, 0.03
#: Cancels and retries per submit.
CANCELS, RETRIES = 0.06, 0.03
SUBMITTERS = 2
ASK_AGAIN_SECONDS = 0.3
#: Longest wait at the end for submits whose answers were lost.
PATIENCE_SECONDS = 20.0


class Pace:
    """Spreads calls over time at random, ``per_second`` on average, without catching up."""

    def __init__(self, per_second: float, rng: Random, ended: threading.Event) -> None:
        self._mean_seconds = 1 / per_second
        self._rng = rng
        self._ended = ended

    def wait(self) -> bool:
        """Wait for the next turn; False when there is none any more."""
        return not self._ended.wait(self._rng.expovariate(1 / self._mean_seconds))


class Sender:
    """Sends wishes and writes down what was accepted."""

    def __init__(self, callers: Callers, ledger: Ledger, book: Book) -> None:
        self._callers = callers
        self._ledger = ledger
        self._book = book
        self._lost: queue.SimpleQueue[Wish] = queue.SimpleQueue()
        self._open = 0

    def send(self, wish: Wish, what: str = "submit") -> Reply:
        """Send once. A lost answer is noted, and a keyed wish is left to ``ask_again``."""
        reply = self._ask(wish, what)
        if reply.doubtful and wish.key is None:
            self._ledger.unknown(None, wish.owner.owner_id, len(wish.jobs), "cannot be asked again")
        elif reply.doubtful:
            self._lost.put(wish)
        return reply

    def send_otherwise(self, wish: Wish) -> None:
        """Use the key of an accepted wish for another request: it must be refused."""
        other = wish.other()
        reply = self._callers.mine().ask(
            "conflict", other.owner, "POST", other.path, other.body, other.headers
        )
        if reply.good:
            text = f"key {wish.key} of owner {wish.owner.owner_id} took another request"
            self._ledger.surprise("I16", f"{text}: {reply.status} {reply.body}")
        elif not reply.doubtful and reply.status not in (422, 429):
            self._ledger.surprise("API", f"conflict answered {reply.status}: {reply.body}")

    def ask_again(self, ended: threading.Event) -> None:
        """Repeat what was lost, with its key, until it is answered or patience ends."""
        give_up_at = float("inf")
        while not ended.is_set() or (self.unanswered and time.monotonic() < give_up_at):
            if ended.is_set() and give_up_at == float("inf"):
                give_up_at = time.monotonic() + PATIENCE_SECONDS
            try:
                wish = self._lost.get(timeout=ASK_AGAIN_SECONDS)
            except queue.Empty:
                continue
            self._open = 1
            self._repeat(wish)
            self._open = 0
        while not self._lost.empty():
            wish = self._lost.get()
            self._ledger.unknown(wish.key, wish.owner.owner_id, len(wish.jobs), "never answered")

    @property
    def unanswered(self) -> int:
        """Keyed wishes of which nobody knows whether they were accepted."""
        return self._lost.qsize() + self._open

    def _repeat(self, wish: Wish) -> None:
        reply = self._ask(wish, "submit again")
        if reply.doubtful:
            self._lost.put(wish)
            time.sleep(ASK_AGAIN_SECONDS)
            return
        outcome = f"answered {reply.status}"
        self._ledger.unknown(wish.key, wish.owner.owner_id, len(wish.jobs), outcome)

    def _ask(self, wish: Wish, what: str) -> Reply:
        reply = self._callers.mine().ask(
            what, wish.owner, "POST", wish.path, wish.body, wish.headers
        )
        if reply.good:
            self._accept(wish, reply)
        elif not reply.doubtful and reply.status not in (409, 429):
            self._ledger.surprise("API", f"{what} answered {reply.status}: {reply.body}")
        return reply

    def _accept(self, wish: Wish, reply: Reply) -> None:
        entries = reply.body["jobs"] if wish.bulk else [reply.body]
        if len(entries) != len(wish.jobs):
            self._ledger.surprise("I1", f"{len(wish.jobs)} jobs answered with {len(entries)}")
        for index, (entry, job) in enumerate(zip(entries, wish.jobs, strict=False)):
            key, owner = wish.stored_key(index), wish.owner
            self._ledger.accepted(entry["id"], owner.owner_id, key, reply.status)
            self._book.add(entry["id"], owner, job["handler"])


class Operator:
    """Cancels and retries jobs at random moments."""

    def __init__(self, callers: Callers, ledger: Ledger, book: Book, rng: Random) -> None:
        self._callers = callers
        self._ledger = ledger
        self._book = book
        self._rng = rng

    def cancel(self) -> None:
        job = self._book.any(self._rng, active=0.9)
        if job is not None:
            self._do("cancel", job.owner, job.job_id)

    def retry(self) -> None:
        job = self._book.to_retry(self._rng)
        if job is not None:
            self._do("retry", job.owner, job.job_id)

    def _do(self, verb: str, owner: Owner, job_id: str) -> None:
        body = {"reason": f"{verb} by the load"}
        path = f"/api/v1/jobs/{job_id}/{verb}/"
        reply = self._callers.mine().ask(verb, owner, "POST", path, body)
        if reply.good:
            self._ledger.accessed(owner.owner_id, job_id, owner.owner_id, reply.status)
            self._book.saw(job_id, reply.body["version"], reply.body["state"])
        elif reply.status == 404:
            self._ledger.surprise("I1", f"{verb} of its owner's {job_id} answered 404")
        elif not reply.doubtful and reply.status not in (409, 429):
            self._ledger.surprise("API", f"{verb} answered {reply.status}: {reply.body}")


class Load:
    """All threads of the load. ``stop`` ends it in order."""

    def __init__(
        self,
        ledger: Ledger,
        owners: Sequence[Owner],
        ports: Sequence[int],
        *,
        seed: int,
        rate: float,
        most: int,
        reads: float,
        poison: bool,
    ) -> None:
        """``rate``: jobs per second, ``reads``: status reads per second, both on average."""
        self._ended = threading.Event()
        self._silent = threading.Event()
        self._owners = owners
        self._seed = seed
        self._rate = rate
        self._most = most
        self._poison = poison
        self._callers = Callers(ports, ledger)
        self.book = Book()
        self._sender = Sender(self._callers, ledger, self.book)
        self._operator = Operator(self._callers, ledger, self.book, Random(f"{seed} operator"))
        self._readers = Readers(self.book, ledger, owners, ports, seed=seed, per_second=reads)
        self._threads: list[threading.Thread] = []
        self._twins = ThreadPoolExecutor(SUBMITTERS)

    def start(self) -> None:
        requests = self._rate / _JOBS_PER_WISH
        for number in range(SUBMITTERS):
            self._run(self._submit, number, requests / SUBMITTERS)
        rng = Random(f"{self._seed} turns")
        self._run(self._operate, self._operator.cancel, Pace(requests * CANCELS, rng, self._ended))
        self._run(self._operate, self._operator.retry, Pace(requests * RETRIES, rng, self._ended))
        self._run(self._sender.ask_again, self._ended)
        self._readers.start(self._silent)

    def stop(self) -> None:
        """Submit no more, wait for lost answers, then end the readers. Bounded."""
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS + 15)
        self._twins.shutdown()
        self._silent.set()
        self._readers.join()
        self._callers.close()

    def _run(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _submit(self, number: int, per_second: float) -> None:
        rng = Random(f"{self._seed} submitter {number}")
        wisher = Wisher(self._owners, rng, poison=self._poison and number == 0)
        pace = Pace(per_second, rng, self._ended)
        while pace.wait():
            if self.book.unfinished() + self._sender.unanswered < self._most:
                self._submit_one(wisher.draw(), rng)

    def _submit_one(self, wish: Wish, rng: Random) -> None:
        draw = rng.random()
        if wish.key is None:
            self._sender.send(wish)
        elif draw < TWINS:
            twin = self._twins.submit(self._sender.send, wish, "submit twin")
            self._sender.send(wish)
            twin.result()
        elif self._sender.send(wish).good:
            self._repeat(wish, draw)

    def _repeat(self, wish: Wish, draw: float) -> None:
        if draw < TWINS + AGAIN:
            self._sender.send(wish, "submit repeated")
        elif draw > 1 - OTHERWISE:
            self._sender.send_otherwise(wish)

    def _operate(self, verb: Callable[[], None], pace: Pace) -> None:
        while pace.wait():
            verb()


#: The mean of the mix: most wishes are of one job, some of many.
_JOBS_PER_WISH = 1.9


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load until it is told to end."""
    options = _parsed(arguments)
    owners = Owner.all(options.keys.read_text(encoding="utf-8"))
    ports = [int(port) for port in options.ports.split(",")]
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Ledger(options.directory) as ledger:
        load = Load(
            ledger,
            owners,
            ports,
            seed=options.seed,
            rate=options.rate,
            most=options.most,
            reads=options.reads,
            poison=options.poison,
        )
        load.start()
        ended.wait(options.seconds)
        load.stop()
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.suite.load")
    parser.add_argument("--directory", type=Path, required=True, help="of the ledger")
    parser.add_argument("--ports", required=True, help="of the API processes, by commas")
    parser.add_argument("--keys", type=Path, required=True, help="JSON: owner_id and key of each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=10.0, help="jobs per second")
    parser.add_argument("--reads", type=float, default=120.0, help="status reads per second")
    parser.add_argument("--most", type=int, default=150, help="unfinished jobs at once")
    parser.add_argument("--seconds", type=float, help="end by itself after this time")
    parser.add_argument("--poison", action="store_true", help="submit poison as well")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
