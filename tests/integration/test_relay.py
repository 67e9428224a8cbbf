"""From the outbox to the queue: what the relay does when RabbitMQ says no, or nothing at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.db import OperationalError, connection

from interlock.celery import app
from jobs import lifecycle, topology
from jobs import relay as relays
from jobs.models import OutboxEntry
from jobs.publisher import BrokerTrouble, Publisher
from jobs.relay import FIRST_BATCH, Relay
from jobs.values import Submission
from tests.integration.conftest import Clock, declare_small, waiting
from tests.marks import until
from tests.proxy import Proxy
from tests.services import Services
from tests.stack import Process, Stack
from tests.verbs import lost_answer

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]


def test_a_batch_is_published_and_settled(relay: Relay, quiet: Stack) -> None:
    _submit(10)
    assert relay.run_once() == 10
    assert waiting() == []
    assert quiet.messages() == 10
    assert relay.run_once() == 0


def test_unroutable_rows_stay(
    relay: Relay, quiet: Stack, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """RabbitMQ confirms what it could not route: without ``mandatory`` this would be a loss."""
    _submit(1)
    assert relay.run_once() == 1
    with monkeypatch.context() as patch:
        patch.setattr(topology, "declare", lambda _: [])
        quiet.delete_queue()
        _submit(3)
        for tries in (1, 2):
            assert relay.run_once() == 0
            assert waiting() == [(tries, None)] * 3
            clock.forward(5)
    assert relay.run_once() == 3
    assert (waiting(), quiet.messages()) == ([], 3)


def test_a_deleted_queue_is_declared_anew(relay: Relay, quiet: Stack, clock: Clock) -> None:
    _submit(1)
    assert relay.run_once() == 1
    quiet.delete_queue()
    _submit(3)
    assert relay.run_once() == 0
    clock.forward(5)
    assert relay.run_once() == 3
    assert (waiting(), quiet.messages()) == ([], 3)


def test_refused_rows_stay(
    relay: Relay, quiet: Stack, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """A full queue says no by ``basic.nack``, for the very messages that it did not take."""
    declare_small(quiet, monkeypatch, 2)
    _submit(5)
    assert relay.run_once() == 2
    assert (waiting(), quiet.messages()) == ([(1, None)] * 3, 2)
    assert quiet.purge() == 2
    assert relay.run_once() == 0
    clock.forward(5)
    assert relay.run_once() == 2
    assert (waiting(), quiet.messages()) == ([(2, None)], 2)


def test_refusals_are_bounded_and_keep_no_other_queue_waiting(
    relay: Relay, quiet: Stack, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """Even with more refused rows than a batch holds, all of them more urgent."""
    other = f"{quiet.queue}.other"
    settings.JOBS = {**settings.JOBS, "relay_batch_size": 5, "queues": [quiet.queue, other]}
    declare_small(quiet, monkeypatch, 1)
    with quiet.services.channel() as channel:
        channel.queue_declare(other, durable=True, auto_delete=False)
    for _ in range(20):
        _submit(1, priority=9)
    _submit(7, queue=other, priority=0)
    published = 0
    for _ in range(60 * 4):
        published += relay.run_once()
        clock.forward(0.25)
    assert published == 1 + 7
    tries = [tries for tries, _ in waiting()]
    assert len(tries) == 19
    assert 60 / 3 <= sum(tries) / 5 <= 60 / 3 + 5
    with quiet.services.channel() as channel:
        channel.queue_delete(other)


def test_a_confirm_that_does_not_come_is_not_taken_for_one(
    quiet: Stack,
    broker_proxy: Proxy,
    jobs_settings: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows stay, the wait is bounded, and the late confirm settles nothing."""
    jobs_settings(publish_timeout_seconds=1.0)
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", broker_proxy.url(quiet.services.broker_url))
    relay = Relay(app)
    _submit(1)
    assert relay.run_once() == 1
    broker_proxy.blackhole("down")
    _submit(3)
    with pytest.raises(BrokerTrouble, match="3 messages unconfirmed in time"):
        relay.run_once()
    assert waiting() == [(1, None)] * 3
    broker_proxy.heal(keep_held=False)
    # One first, to see; then the others.
    assert [relay.run_once() for _ in range(3)] == [1, 2, 0]
    assert waiting() == []
    # All three arrived, and were rung again: a doorbell too many harms nobody.
    assert quiet.messages() == 7
    relay.close()


def test_a_backlog_is_rung_for_in_batches_that_grow(
    relay: Relay, quiet: Stack, jobs_settings: Callable[..., None]
) -> None:
    """Workers begin soon with it; and the first after it shall not wait for a large one again."""
    jobs_settings(relay_batch_size=800)
    for _ in range(20):
        _submit(100)
    rounds = [(relay.limit, relay.run_once()) for _ in range(4)]
    assert [limit for limit, _ in rounds] == [FIRST_BATCH, 2 * FIRST_BATCH, 800, 800]
    # The rows of a hundred jobs each are not divided.
    assert [rung for _, rung in rounds] == [300, 500, 800, 400]
    assert (waiting(), relay.limit) == ([], FIRST_BATCH)


def test_two_relays_share_the_rows(quiet: Stack, jobs_settings: Callable[..., None]) -> None:
    jobs_settings(relay_batch_size=7)
    for _ in range(40):
        _submit(5)
    begin = threading.Barrier(2)
    taken = [0, 0]

    def drain(index: int) -> None:
        one = Relay(app)
        begin.wait(10)
        while rows := one.run_once():
            taken[index] += rows
        one.close()
        connection.close()

    threads = [threading.Thread(target=drain, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(taken) == 200
    assert min(taken) > 0
    assert waiting() == []
    assert set(OutboxEntry.objects.values_list("tries", flat=True)) == {1}
    assert quiet.messages() == 200


def test_trouble_that_lasts_sends_one_message_at_a_time(
    quiet: Stack,
    broker_proxy: Proxy,
    jobs_settings: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broker that blocks takes everything from the wire when its alarm is over."""
    jobs_settings(publish_timeout_seconds=0.5)
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", broker_proxy.url(quiet.services.broker_url))
    relay = Relay(app)
    _submit(30)
    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "open", _fall_silent_after(broker_proxy, Publisher.open))
        for _ in range(4):
            with pytest.raises(BrokerTrouble, match="unconfirmed in time"):
                relay.run_once()
    broker_proxy.heal(keep_held=False)
    assert waiting() == [(4, None)] * 30
    assert [relay.run_once() for _ in range(3)] == [1, 29, 0]
    assert quiet.messages() == 30 + 3 + 30
    relay.close()


def test_nothing_is_taken_before_the_broker_is_there(
    quiet: Stack, broker_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage costs the tables nothing."""
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", broker_proxy.url(quiet.services.broker_url))
    relay = Relay(app)
    _submit(3)
    broker_proxy.cut()
    for _ in range(5):
        with pytest.raises(BrokerTrouble):
            relay.run_once()
    assert waiting() == [(0, None)] * 3
    broker_proxy.heal()
    assert relay.run_once() == 3
    relay.close()


def test_a_broker_that_hung_up_meanwhile_is_noticed_before_anything_is_taken(
    quiet: Stack, broker_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", broker_proxy.url(quiet.services.broker_url))
    relay = Relay(app)
    _submit(1)
    assert relay.run_once() == 1
    broker_proxy.reset()
    _submit(3)
    assert relay.run_once() == 3
    assert set(OutboxEntry.objects.values_list("tries", flat=True)) == {1}
    relay.close()


def test_every_wait_for_a_silent_broker_is_bounded(
    quiet: Stack,
    broker_proxy: Proxy,
    jobs_settings: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also those inside the client that know no timeout: handshake, open a channel, declare."""
    jobs_settings(publish_timeout_seconds=0.5)
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", broker_proxy.url(quiet.services.broker_url))
    relay = Relay(app)
    _submit(1)
    broker_proxy.blackhole("down")
    with pytest.raises(BrokerTrouble):
        relay.run_once()
    broker_proxy.heal(keep_held=False)
    with monkeypatch.context() as patch:
        patch.setattr(topology, "ensure", _fall_silent_before(broker_proxy, topology.ensure))
        with pytest.raises(BrokerTrouble):
            relay.run_once()
    broker_proxy.heal(keep_held=False)
    assert relay.run_once() == 1
    relay.close()


def test_a_database_that_has_hung_up_meanwhile_costs_no_turn(relay: Relay, quiet: Stack) -> None:
    _submit(3)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        quiet.sql("SELECT pg_terminate_backend(%(pid)s)", {"pid": cursor.fetchone()[0]})
    assert relay.run_once() == 3
    assert (waiting(), quiet.messages()) == ([], 3)


def test_a_database_that_hangs_up_between_publish_and_settle(
    relay: Relay, quiet: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    _submit(3)
    publish = Publisher.publish

    def then_cut(self: Publisher, *args: Any) -> None:
        publish(self, *args)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            quiet.sql("SELECT pg_terminate_backend(%(pid)s)", {"pid": cursor.fetchone()[0]})

    monkeypatch.setattr(Publisher, "publish", then_cut)
    assert relay.run_once() == 3
    assert (waiting(), quiet.messages()) == ([], 3)


def test_what_could_not_be_settled_is_owed(
    relay: Relay, quiet: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of the database between publish and settle costs no second ring."""
    _submit(3)

    def away(*_: object) -> None:
        raise OperationalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(relays, "settle", away)
        for _ in range(3):
            with pytest.raises(OperationalError):
                relay.run_once()
    assert [tries for tries, _ in waiting()] == [1] * 3
    assert relay.run_once() == 0
    assert (waiting(), quiet.messages()) == ([], 3)


def test_a_settle_whose_answer_was_lost(relay: Relay, quiet: Stack) -> None:
    _submit(3)
    with lost_answer(single=False):
        assert relay.run_once() == 3
    assert (waiting(), quiet.messages(), relay.run_once()) == ([], 3, 0)


def test_a_take_whose_answer_was_lost(
    relay: Relay, quiet: Stack, monkeypatch: pytest.MonkeyPatch, jobs_settings: Callable[..., None]
) -> None:
    """The rows are in nobody's hands until the take lapses."""
    jobs_settings(relay_take_seconds=0.5)
    _submit(3)
    take = relays.take

    def deaf(*args: Any) -> list[Any]:
        take(*args)
        raise OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr(relays, "take", deaf)
        with pytest.raises(OperationalError):
            relay.run_once()
    until(relay.run_once, 20, lambda: f"never taken again: {waiting()}")
    assert (waiting(), quiet.messages()) == ([], 3)


def test_redis_as_the_broker(quiet: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded default: its reply is the proof, and an outage is an outage."""
    url = urlsplit(quiet.services.cache_url)
    with (
        Proxy(url.hostname or "", url.port or 6379) as proxy,
        closing(quiet.services.redis()) as db,
    ):
        monkeypatch.setenv("CELERY_BROKER_WRITE_URL", proxy.url(quiet.services.cache_url))
        relay = Relay(app)
        _submit(2)
        assert relay.run_once() == 2
        proxy.cut()
        _submit(3)
        for _ in range(2):
            with pytest.raises(BrokerTrouble):
                relay.run_once()
        proxy.heal()
        assert [relay.run_once() for _ in range(3)] == [1, 2, 0]
        assert (waiting(), db.llen(quiet.queue)) == ([], 5)
        relay.close()
        db.delete(quiet.queue)


def test_broker_down_for_a_while(migrated: str, broker_proxy: Proxy, tmp_path: Path) -> None:
    """The relay survives it and says that it gets nowhere; all is rung when it is over."""
    given = Services.given()
    here = replace(given, broker_url=broker_proxy.url(given.broker_url))
    with Stack(
        here, migrated, tmp_path, publish_timeout_seconds=1.0, worker_stale_seconds=1.0
    ) as stack:
        _, relay = stack.start("api", "relay")
        first = stack.submit("noop")
        stack.wait_published(first)
        broker_proxy.cut()
        ids = stack.submit("noop", count=20)
        _wait_failures(relay, 1)
        seen_at = _seen_at(stack, relay)
        _wait_failures(relay, 5)
        assert _seen_at(stack, relay) == seen_at, "a loop that only fails looks alive"
        assert not any(row["published_at"] for row in stack.outbox(*ids))
        broker_proxy.heal()
        stack.wait_published(ids)
        until(lambda: _seen_at(stack, relay) > seen_at, 20, stack.tails)
        assert relay.alive
        until(lambda: stack.messages() == 21, 10, lambda: f"{stack.messages()} of 21 messages")
        stack.start("worker")
        stack.check([*first, *ids])


def _wait_failures(relay: Process, count: int) -> None:
    until(lambda: relay.log.read_text().count("BrokerTrouble") >= count, 30, relay.log.read_text)


def _seen_at(stack: Stack, process: Process) -> Any:
    rows = stack.sql("SELECT seen_at FROM jobs_worker WHERE pid = %(pid)s", {"pid": process.pid})
    return rows[0][0]


def _submit(count: int, **fields: Any) -> None:
    lifecycle.submit([Submission("noop", **fields) for _ in range(count)])


def _fall_silent_before(proxy: Proxy, inner: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        proxy.blackhole("down")
        return inner(*args)

    return call


def _fall_silent_after(proxy: Proxy, inner: Callable[..., Any]) -> Callable[..., Any]:
    """And speak again for the next call."""

    def call(*args: Any) -> Any:
        proxy.heal(keep_held=False)
        answer = inner(*args)
        proxy.blackhole("down")
        return answer

    return call
