"""The fault suite's load against an API that answers badly: nothing is believed too early."""

from __future__ import annotations

import json
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from tests.faults.suite import ledger as ledgers
from tests.faults.suite.book import Book
from tests.faults.suite.caller import Caller, Callers, Owner
from tests.faults.suite.ledger import Ledger
from tests.faults.suite.load import Sender
from tests.faults.suite.wishes import Wish, Wisher

OWNER = Owner(7, "ilk_a-key")
JOB = str(uuid.uuid4())
_JSON = json.dumps({"id": JOB, "state": "PENDING", "version": 1, "created": True}).encode()


def _answer(status: int, body: bytes = _JSON, *, short_of: int = 0) -> bytes:
    """An answer; ``short_of`` of its announced bytes never come."""
    length = len(body) + short_of
    head = b"HTTP/1.1 %d Said\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    return head % (status, length) + body


class BadApi:
    """Answers each connection with the next thing it was told to say, then hangs up."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.says: list[bytes] = []
        self.heard: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client:
                    self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        request = b""
        while b"}" not in request:
            request += client.recv(65536)
        self.heard.append(request)
        client.sendall(self.says.pop(0))


@pytest.fixture
def api() -> Iterator[BadApi]:
    made = BadApi()
    yield made
    made.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as made:
        yield made


@pytest.fixture
def sender(api: BadApi, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sender]:
    monkeypatch.setattr("tests.faults.suite.load.ASK_AGAIN_SECONDS", 0.01)
    callers = Callers([api.port], ledger)
    yield Sender(callers, ledger, Book())
    callers.close()


def _wish(key: str | None = "a-key") -> Wish:
    return Wish(OWNER, ({"handler": "chaos.quick", "payload": {}},), bulk=False, key=key)


DOUBTFUL = {
    "nothing": b"",
    "cut": _answer(201, short_of=5),
    "garbage": _answer(201, b"{not json}"),
    "no HTTP": b"hello\r\n\r\n",
    "503": _answer(503, b'{"code": "unavailable"}'),
}


@pytest.mark.parametrize("said", DOUBTFUL.values(), ids=DOUBTFUL)
def test_doubtful_answer_is_asked_for_again(
    api: BadApi, sender: Sender, tmp_path: Path, said: bytes
) -> None:
    api.says = [said, said, _answer(200)]
    assert sender.send(_wish()).doubtful
    assert not list(ledgers.lines(tmp_path, "accepted"))
    assert sender.unanswered == 1

    ended = threading.Event()
    ended.set()
    sender.ask_again(ended)
    [accepted] = ledgers.lines(tmp_path, "accepted")
    assert (accepted["job_id"], accepted["idempotency_key"]) == (JOB, "a-key")
    assert (accepted["status"], accepted["owner_id"]) == (200, 7)
    assert len(api.heard) == 3
    assert all(b"Idempotency-Key: a-key\r\n" in request for request in api.heard)
    [unknown] = ledgers.lines(tmp_path, "unknown")
    assert unknown["outcome"] == "answered 200"
    assert [line["status"] for line in ledgers.lines(tmp_path, "answers")][-1] == 200


def test_lost_answer_without_a_key_is_not_asked_for_again(
    api: BadApi, sender: Sender, tmp_path: Path
) -> None:
    api.says = [b""]
    sender.send(_wish(key=None))
    assert sender.unanswered == 0
    [unknown] = ledgers.lines(tmp_path, "unknown")
    assert unknown["outcome"] == "cannot be asked again"


def test_patience_ends(
    api: BadApi, sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.faults.suite.load.PATIENCE_SECONDS", 0.0)
    api.says = [b""] * 50
    sender.send(_wish())
    ended = threading.Event()
    ended.set()
    sender.ask_again(ended)
    [unknown] = ledgers.lines(tmp_path, "unknown")
    assert unknown["outcome"] == "never answered"


@pytest.mark.parametrize(
    ("status", "invariant"), [(200, "I16"), (201, "I16"), (400, "API"), (422, None), (503, None)]
)
def test_a_key_that_takes_another_request(
    api: BadApi, sender: Sender, tmp_path: Path, status: int, invariant: str | None
) -> None:
    api.says = [_answer(status, b'{"code": "any"}')]
    sender.send_otherwise(_wish())
    met = [line["invariant"] for line in ledgers.lines(tmp_path, "surprises")]
    assert met == ([invariant] if invariant else [])
    assert not list(ledgers.lines(tmp_path, "accepted"))


def test_the_other_process_is_asked_when_one_is_gone(api: BadApi, ledger: Ledger) -> None:
    gone = BadApi()
    gone.close()
    api.says = [_answer(200)] * 4
    caller = Caller([gone.port, api.port], ledger)
    replies = [caller.ask("status", OWNER, "POST", "/", {}) for _ in range(5)]
    caller.close()
    assert sorted(reply.status for reply in replies)[1:] == [200] * 4


def test_writers_that_share_a_file_leave_whole_lines(tmp_path: Path) -> None:
    def write(to: Ledger) -> None:
        for _ in range(300):
            to.surprise("I1", "x" * 400)

    with Ledger(tmp_path) as one, Ledger(tmp_path) as other:
        threads = [threading.Thread(target=write, args=(to,)) for to in (one, other, one)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(list(ledgers.lines(tmp_path, "surprises"))) == 900


def test_equal_seeds_wish_the_same() -> None:
    first, second = (Wisher([OWNER], Random(5), poison=True) for _ in range(2))
    drawn = [(first.draw(), second.draw()) for _ in range(300)]
    assert all(one.jobs == other.jobs for one, other in drawn)
    assert any(wish.jobs[0]["handler"].startswith("poison.") for wish, _ in drawn)


def test_book_follows_a_job_that_is_reopened() -> None:
    book = Book()
    book.add(JOB, OWNER, "chaos.hopeless")
    book.saw(JOB, 3, "FAILED")
    assert (book.unfinished(), book.to_retry(Random(1)) is not None) == (0, True)
    book.saw(JOB, 2, "RUNNING")
    assert book.unfinished() == 0, "an older status changes nothing"
    book.saw(JOB, 4, "PENDING")
    assert (book.unfinished(), book.to_retry(Random(1))) == (1, None)
