"""From the outbox to the queue: what the relay does when RabbitMQ says no, or nothing at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.db import connection

from interlock.celery import app
from jobs import lifecycle, topology
from jobs.models import OutboxEntry
from jobs.relay import BrokerTrouble, Relay
from jobs.values import Submission
from tests.marks import until
from tests.proxy import Proxy
from tests.services import Services
from tests.stack import Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]


@pytest.fixture
def relay(quiet: Stack) -> Iterator[Relay]:
    """A relay in this process, on a stack without any other."""
    relay = Relay(app)
    yield relay
    relay.close()


def test_a_batch_is_published_and_settled(relay: Relay, quiet: Stack) -> None:
    _submit(10)
    assert relay.run_once() == 10
    assert _waiting() == []
    assert quiet.messages() == 10
    assert relay.run_once() == 0


def test_unroutable_rows_stay(relay: Relay, quiet: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """RabbitMQ confirms what it could not route: without ``mandatory`` this would be a loss."""
    _submit(1)
    assert relay.run_once() == 1
    with monkeypatch.context() as patch:
        patch.setattr(topology, "declare", lambda _: [])
        quiet.delete_queue()
        _submit(3)
        for tries in (1, 2):
            with pytest.raises(BrokerTrouble, match="3 messages refused or unroutable"):
                relay.run_once()
            assert _waiting() == [(tries, None)] * 3
    assert relay.run_once() == 3
    assert (_waiting(), quiet.messages()) == ([], 3)


def test_refused_rows_stay(relay: Relay, quiet: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue says no by ``basic.nack``, for the very messages that it did not take."""
    full = {"x-max-length": 2, "x-overflow": "reject-publish"}
    with quiet.services.channel() as channel:
        channel.queue_declare(quiet.queue, durable=True, auto_delete=False, arguments=full)
    monkeypatch.setattr(topology, "declare", lambda _: [])
    _submit(5)
    with pytest.raises(BrokerTrouble, match="3 messages refused or unroutable"):
        relay.run_once()
    assert (_waiting(), quiet.messages()) == ([(1, None)] * 3, 2)
    assert quiet.purge() == 2
    with pytest.raises(BrokerTrouble, match="1 messages refused or unroutable"):
        relay.run_once()
    assert (_waiting(), quiet.messages()) == ([(2, None)], 2)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    url = urlsplit(Services.given().broker_url)
    with Proxy(url.hostname or "", url.port or 5672) as proxy:
        yield proxy


def _through(proxy: Proxy, url: str) -> str:
    given = urlsplit(url)
    user = given.netloc.rpartition("@")[0]
    return given._replace(netloc=f"{user}@127.0.0.1:{proxy.port}").geturl()


def test_a_confirm_that_does_not_come_is_not_taken_for_one(
    quiet: Stack,
    proxy: Proxy,
    jobs_settings: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows stay, the wait is bounded, and the late confirm settles nothing."""
    jobs_settings(publish_timeout_seconds=1.0)
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", _through(proxy, quiet.services.broker_url))
    relay = Relay(app)
    _submit(1)
    assert relay.run_once() == 1
    proxy.swallow()
    _submit(3)
    with pytest.raises(BrokerTrouble, match="3 messages unconfirmed in time"):
        relay.run_once()
    assert _waiting() == [(1, None)] * 3
    proxy.heal()
    assert relay.run_once() == 3
    assert _waiting() == []
    # All three arrived, and were rung again: a doorbell too many harms nobody.
    assert quiet.messages() == 7
    relay.close()


def test_two_relays_share_the_rows(quiet: Stack, jobs_settings: Callable[..., None]) -> None:
    jobs_settings(relay_batch_size=7)
    _submit(200)
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
    assert _waiting() == []
    assert set(OutboxEntry.objects.values_list("tries", flat=True)) == {1}
    assert quiet.messages() == 200


def test_broker_down_for_a_while(migrated: str, proxy: Proxy, tmp_path: Path) -> None:
    """The relay process survives it: rows stay, tries grow, and all is rung when it is over."""
    given = Services.given()
    here = replace(given, broker_url=_through(proxy, given.broker_url))
    with Stack(here, migrated, tmp_path, publish_timeout_seconds=1.0) as stack:
        stack.start("api", "relay")
        first = stack.submit("noop")
        stack.wait_published(first)
        proxy.cut()
        ids = stack.submit("noop", count=20)
        until(lambda: all(row["tries"] >= 3 for row in stack.outbox(*ids)), 30, stack.tails)
        assert not any(row["published_at"] for row in stack.outbox(*ids))
        proxy.heal()
        stack.wait_published(ids)
        assert stack.the("relay").said("BrokerTrouble")
        until(lambda: stack.messages() == 21, 10, lambda: f"{stack.messages()} of 21 messages")
        stack.start("worker")
        stack.check([*first, *ids])


def _submit(count: int) -> None:
    lifecycle.submit([Submission("noop") for _ in range(count)])


def _waiting() -> list[tuple[int, object]]:
    """Tries and holder of each row that is not published."""
    return list(OutboxEntry.objects.filter(published_at=None).values_list("tries", "taken_until"))
