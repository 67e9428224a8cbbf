"""How the worker's consumer waits for a broker: shortly, unevenly, and without a word too many."""

from __future__ import annotations

import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from celery.bootsteps import CLOSE, RUN  # type: ignore[attr-defined] # not in celery-types
from celery.exceptions import WorkerShutdown

from jobs import conf, consumer, drain, topology
from jobs.consumer import QuietConsumer
from jobs.errors import ConfigurationError


class Broker:
    """A kombu connection that only remembers how it was asked to connect."""

    transport_cls = "amqp"
    transport_options = None
    alt = None

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def ensure_connection(self, complain: Any, max_retries: Any, **how: Any) -> Broker:
        self.asked = {"complain": complain, "max_retries": max_retries, **how}
        return self

    def as_uri(self) -> str:
        return "amqp://broker//"


@pytest.fixture
def quiet() -> Any:
    """A consumer without a worker around it."""
    bare: Any = QuietConsumer.__new__(QuietConsumer)
    always = {"broker_connection_retry": True, "broker_connection_retry_on_startup": True}
    settings = {**always, "broker_connection_max_retries": None}
    queues = SimpleNamespace(consume_from={"default": None})
    bare.app = SimpleNamespace(
        conf=SimpleNamespace(**settings), amqp=SimpleNamespace(queues=queues)
    )
    bare._answer_seconds = 5.0
    bare._silences = bare._failures = 0
    bare._listening_since = bare.connection = None
    bare.conninfo = Broker()
    bare._complained_at = float("-inf")
    bare._pulse = 0.0
    bare._heard = 0
    bare._gatherer = None
    bare._roll_call = RollCalls()
    bare.pool = SimpleNamespace(num_processes=1)
    return bare


class RollCalls:
    """Remembers who asked, instead of asking."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def begin(self) -> None:
        self.asked.clear()

    def look(self, broker: object, queues: object, heard: int) -> None:
        self.asked.append(broker)


def test_no_wait_between_two_tries_is_long(quiet: Any) -> None:
    """Kombu's own end at 30 s: so long a worker would sleep beside a broker that is back."""
    asked = []
    for _ in range(50):
        broker = Broker()
        assert quiet.ensure_connected(broker) is broker
        asked.append(broker.asked)
    assert all(0.05 < how["interval_start"] <= 0.5 for how in asked)
    assert all(how["interval_max"] <= consumer.LONGEST_WAIT_SECONDS for how in asked)
    assert all(how["max_retries"] is None for how in asked)
    assert len({how["interval_max"] for how in asked}) > 10, "workers must not come back in step"


def test_each_try_shows_life_and_sees_a_stop(quiet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker()
    quiet.ensure_connected(broker)
    broker.asked["callback"]()
    assert quiet._pulse > 0
    monkeypatch.setattr("celery.worker.state.should_stop", 0)
    with pytest.raises(WorkerShutdown):
        broker.asked["callback"]()


def test_a_long_outage_is_not_a_long_log(quiet: Any, caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker()
    quiet.ensure_connected(broker)
    for _ in range(100):
        broker.asked["complain"](OSError("refused"), 1.0)
    assert len(caplog.records) == 1
    quiet._complained_at -= consumer.COMPLAIN_SECONDS
    broker.asked["complain"](OSError("refused"), 1.0)
    assert len(caplog.records) == 2


def test_a_mismatch_is_explained() -> None:
    """RabbitMQ's own words, as of 3.10 and 4.x."""
    said = (
        "Queue.declare: (406) PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue "
        "'default' in vhost '/': received the value '50' of type 'signedint' but current is the "
        "value '20' of type 'long'"
    )
    text = topology._explained(said)
    assert text.startswith("queue 'default' exists with another 'x-delivery-limit': wanted is the")
    assert "'50'" in text
    assert "the broker has the value '20'" in text
    assert "odd" in topology._explained("odd")


def test_a_mismatch_ends_the_worker(quiet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(broker: object) -> None:
        raise ConfigurationError("queue 'default' exists with another 'x-delivery-limit'")

    monkeypatch.setattr("celery.worker.consumer.Consumer.connect", lambda self: Broker())
    monkeypatch.setattr(consumer, "bound_open_broker_sockets", lambda *_: None)
    monkeypatch.setattr(topology, "ensure", refuse)
    with pytest.raises(WorkerShutdown) as ended:
        quiet.connect()
    assert ended.value.code == 1
    assert drain.seconds_since_stop() is not None, "what it runs is handed back meanwhile"


def test_a_silent_redis_is_bounded_too() -> None:
    redis: Any = SimpleNamespace(transport_cls="redis", transport_options={"socket_timeout": 9})
    topology.bound_calls(redis, 5)
    assert redis.transport_options == {"socket_timeout": 9, "socket_connect_timeout": 5}
    assert conf.get().deaf_seconds > consumer.ANSWER_SECONDS


def test_a_broker_that_is_silent_is_given_more_time_at_each_try(
    quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short at first: one that has just started forgets who asked before its queues answer."""
    given: list[float] = []
    monkeypatch.setattr("celery.worker.consumer.Consumer.connect", lambda self: Broker())
    monkeypatch.setattr(consumer, "bound_open_broker_sockets", lambda _, bound: given.append(bound))
    monkeypatch.setattr(topology, "ensure", lambda broker: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    for error in (TimeoutError(), TimeoutError(), ConnectionResetError(), TimeoutError()):
        quiet.connect()
        quiet.on_connection_error_before_connected(error)
    quiet.connect()
    first, longest = consumer.FIRST_ANSWER_SECONDS, consumer.ANSWER_SECONDS
    assert given == [first, 2 * first, longest, longest, longest]
    quiet.on_ready()
    quiet.connect()
    assert given[-1] == first


@pytest.mark.parametrize(
    ("connected", "since", "state", "noticed"),
    [
        (False, 1.0, RUN, True),
        (True, 1.0, RUN, False),
        (False, None, RUN, False),
        (False, 1.0, CLOSE, False),
    ],
)
def test_a_connection_that_has_ended_unheard_is_noticed(
    quiet: Any, connected: bool, since: float | None, state: int, noticed: bool
) -> None:
    """Celery reads outside its loop now and then, and drops the error that it meets there."""
    quiet.connection = SimpleNamespace(connected=connected)
    quiet._listening_since = since
    quiet.blueprint = SimpleNamespace(state=state)
    with pytest.raises(ConnectionResetError) if noticed else nullcontext():
        quiet._look()
    assert quiet._pulse > 0


@pytest.mark.parametrize(
    ("children", "consumes", "asks"),
    [(1, True, True), (0, True, False), (1, False, False)],
    ids=["free", "all busy", "no consumer on purpose"],
)
def test_only_who_should_hear_asks_whether_he_is_counted(
    quiet: Any, children: int, consumes: bool, asks: bool
) -> None:
    quiet.connection = SimpleNamespace(connected=True)
    quiet._listening_since = 1.0
    quiet.blueprint = SimpleNamespace(state=RUN)
    quiet.pool.num_processes = children
    quiet._gatherer = SimpleNamespace(consumes=lambda: consumes)
    quiet._look()
    assert quiet._roll_call.asked == [quiet.connection] * asks
