"""When a worker asks whether it is still a consumer, and which answers it believes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.rollcall import RollCall

Look = Callable[..., bool]


class NotFoundError(Exception):
    pass


class Broker:
    """Answers at once, and counts its questions."""

    connection_errors = (OSError,)
    channel_errors = (NotFoundError,)

    def __init__(self) -> None:
        self.transport = SimpleNamespace(driver_type="amqp")
        self.consumers: dict[str, int] = {"a": 2, "b": 1}
        self.asked = 0

    def channel(self) -> Any:
        return self

    def queue_declare(self, name: str, *, passive: bool) -> Any:
        assert passive
        self.asked += 1
        if name not in self.consumers:
            raise NotFoundError(name)
        return SimpleNamespace(message_count=0, consumer_count=self.consumers[name])


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def look(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Look so many times, a second apart, with as many messages as are said between two looks.
    Answers whether the last look was in favour of consuming anew."""
    now = 0.0
    heard = 0
    call = RollCall()
    monkeypatch.setattr("jobs.rollcall.time.monotonic", lambda: now)

    def times(count: int, messages: int = 0) -> bool:
        nonlocal now, heard
        anew = False
        for _ in range(count):
            now += 1
            heard += messages
            anew = call.look(broker, ["a", "b"], heard)  # type: ignore[arg-type] # as much of one as is asked
        return anew

    times.call = call  # type: ignore[attr-defined] # some tests connect or consume anew
    return times


def test_a_silent_worker_asks_every_other_second(look: Look, broker: Broker) -> None:
    look(1)
    assert broker.asked == 2, "one question per queue, at once"
    look(60)
    assert broker.asked == 2 + 2 * 30


def test_one_who_hears_asks_once(look: Look, broker: Broker) -> None:
    look(60, messages=1)
    assert broker.asked == 2


def test_no_consumers_twice_is_the_end(look: Look, broker: Broker) -> None:
    look(3)
    broker.consumers["b"] = 0
    look(2)
    with pytest.raises(ConnectionResetError, match="'b'"):
        look(1)


def test_once_is_not_enough(look: Look, broker: Broker) -> None:
    for _ in range(10):
        broker.consumers["b"] = 1
        look(2)
        broker.consumers["b"] = 0
        look(1)


def test_fewer_than_before_are_a_doubt(look: Look, broker: Broker) -> None:
    """The others may have come back already, so that there is no telling from the number."""
    assert not look(3)
    broker.consumers["a"] = 1
    assert look(2)
    assert look(4), "it stays one until something is done about it"
    look.call.begin_count()  # type: ignore[attr-defined] # see the fixture
    assert not look(10)
    broker.consumers["a"] = 5
    assert not look(10)


def test_who_hears_has_no_doubts(look: Look, broker: Broker) -> None:
    look(3)
    broker.consumers["a"] = 1
    assert look(2)
    assert not look(1, messages=1)
    assert not look(10)


def test_a_message_between_two_answers_proves_the_first_wrong(look: Look, broker: Broker) -> None:
    look(3)
    broker.consumers["b"] = 0
    look(2)
    look(1, messages=1)
    look(2)
    with pytest.raises(ConnectionResetError):
        look(1)


def test_a_queue_that_is_not_there_is_the_end_at_once(look: Look, broker: Broker) -> None:
    look(3)
    del broker.consumers["a"]
    with pytest.raises(ConnectionResetError, match="'a'"):
        look(2)


def test_a_broker_that_never_counted_is_not_believed(look: Look, broker: Broker) -> None:
    broker.consumers["b"] = 0
    look(60)
    broker.consumers["b"] = 1
    look(3)
    broker.consumers["b"] = 0
    look.call.begin()  # type: ignore[attr-defined] # see the fixture
    look(60)


def test_redis_is_not_asked(look: Look, broker: Broker) -> None:
    broker.transport.driver_type = "redis"
    look(60)
    assert not broker.asked
