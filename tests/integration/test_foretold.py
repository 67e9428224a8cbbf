"""A job that comes alone is rung before its outbox row is taken, and settled like any other."""

from __future__ import annotations

import json
import select
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.db import OperationalError, transaction

from interlock.celery import app
from jobs import doorbells, lifecycle, status
from jobs import relay as relays
from jobs.publisher import BrokerTrouble, Message, Publisher
from jobs.relay import Relay
from jobs.values import Foretold, Submission
from tests.integration.conftest import Clock, declare_small, waiting
from tests.marks import until
from tests.proxy import Proxy
from tests.stack import Stack
from tests.verbs import rolled_back

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]


def submitted(queue: str) -> Foretold:
    [accepted] = lifecycle.submit([Submission("noop")])
    return Foretold(accepted.job_id, "noop", queue)


def rung(relay: Relay, foretold: Foretold) -> int:
    """As the command does it when it hears of a job: it has looked before, and so is connected."""
    relay._publisher.open()
    relay.ring_early(foretold)
    return relay.run_once()


def test_it_is_rung_before_its_row_is_taken(
    relay: Relay, quiet: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, there = relays.take, []

    def taking(*args: Any) -> Any:
        until(lambda: quiet.messages() == 1, 20)
        there.append(waiting())
        return take(*args)

    monkeypatch.setattr(relays, "take", taking)
    assert rung(relay, submitted(quiet.queue)) == 1
    assert (there, waiting(), quiet.messages()) == ([[(0, None)]], [], 1)


def test_its_row_waits_until_it_has_travelled(
    relay: Relay,
    quiet: Stack,
    jobs_settings: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those whom it wakes on its way shall have the processors for themselves."""
    jobs_settings(relay_round_seconds=0.04)
    begin, take, at = Publisher.begin, relays.take, []

    def beginning(self: Publisher, message: Message) -> bool:
        at.append(time.monotonic())
        return begin(self, message)

    def taking(*args: Any) -> Any:
        at.append(time.monotonic())
        return take(*args)

    monkeypatch.setattr(Publisher, "begin", beginning)
    monkeypatch.setattr(relays, "take", taking)
    assert rung(relay, submitted(quiet.queue)) == 1
    sent, taken = at
    assert taken - sent >= 0.02


def test_it_does_not_travel_for_longer_than_it_counts(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(relay_round_seconds=1.0)
    assert relays.head_start_seconds() < doorbells.EARLY_SECONDS


def test_the_command_rings_when_it_hears_of_it(quiet: Stack) -> None:
    """Of a job that the outbox does not have, so that nothing else could have rung."""
    quiet.start("relay")

    def is_rung() -> bool:
        # Again, for a relay that does not listen yet hears nothing.
        status.wake(Foretold(uuid4(), "noop", quiet.queue))
        return quiet.messages() > 0

    until(is_rung, 20)


def test_the_command_takes_what_it_rang_for_when_that_is_there(quiet: Stack) -> None:
    """It does not wait for its poll, and rings once."""
    quiet.start("relay")
    for _ in range(10):
        [accepted] = lifecycle.submit([Submission("noop")])
        until(lambda: waiting() == [], 20)
        [row] = quiet.outbox(accepted.job_id)
        assert row["tries"] == 1
    assert quiet.messages() == 10


# ----------------------------------------------------------------- before the submit is committed


def ring_too_soon(relay: Relay, foretold: Foretold) -> None:
    relay._publisher.open()
    assert not relay.ring_early(foretold._replace(is_there=False))


def test_a_job_that_comes_soon_is_rung_once(relay: Relay, quiet: Stack) -> None:
    with transaction.atomic():
        foretold = submitted(quiet.queue)
        ring_too_soon(relay, foretold)
    assert relay.ring_early(foretold)
    assert (relay.run_once(), waiting(), quiet.messages()) == (1, [], 1)
    with quiet.services.channel() as channel:
        message = channel.basic_get(quiet.queue, no_ack=True)
    assert message is not None
    assert doorbells.is_early(json.loads(message.body)[0][0])


def test_a_job_that_is_there_is_not_rung_as_early(relay: Relay, quiet: Stack) -> None:
    assert rung(relay, submitted(quiet.queue)) == 1
    with quiet.services.channel() as channel:
        message = channel.basic_get(quiet.queue, no_ack=True)
    assert message is not None
    assert not doorbells.is_early(json.loads(message.body)[0][0])


def test_a_job_that_comes_late_is_rung_again(relay: Relay, quiet: Stack, clock: Clock) -> None:
    """By then its worker has given up."""
    with transaction.atomic():
        foretold = submitted(quiet.queue)
        ring_too_soon(relay, foretold)
        clock.forward(doorbells.EARLY_SECONDS)
    assert (relay.run_once(), waiting(), quiet.messages()) == (1, [], 2)


def test_a_job_that_is_there_counts_however_late_it_is_taken(
    relay: Relay, quiet: Stack, clock: Clock
) -> None:
    foretold = submitted(quiet.queue)
    relay._publisher.open()
    relay.ring_early(foretold)
    clock.forward(doorbells.EARLY_SECONDS)
    assert (relay.run_once(), waiting(), quiet.messages()) == (1, [], 1)


def test_a_job_that_never_comes_leaves_nothing_behind(relay: Relay, quiet: Stack) -> None:
    with rolled_back():
        ring_too_soon(relay, submitted(quiet.queue))
    assert relay.run_once() == 0
    assert rung(relay, submitted(quiet.queue)) == 1
    assert (waiting(), quiet.messages()) == ([], 2)


def test_one_is_rung_early_at_a_time(relay: Relay, quiet: Stack) -> None:
    with transaction.atomic():
        first, second = submitted(quiet.queue), submitted(quiet.queue)
        ring_too_soon(relay, first)
        ring_too_soon(relay, second)
    assert relay.ring_early(second)
    assert (relay.run_once(), waiting(), quiet.messages()) == (2, [], 2)


@pytest.mark.parametrize("comes", ["soon", "late"])
def test_a_doorbell_may_come_before_its_job(
    relay: Relay, quiet: Stack, clock: Clock, comes: str
) -> None:
    """In time for it, the worker runs it; else the relay rings again, for a worker that has come to
    think that there is no such job."""
    [worker] = quiet.start("worker")
    with transaction.atomic():
        foretold = submitted(quiet.queue)
        ring_too_soon(relay, foretold)
        worker.wait_said("came too early")
        if comes == "late":
            worker.wait_said("no job came")
            clock.forward(doorbells.EARLY_SECONDS)
    if comes == "late":
        assert quiet.states([foretold.job_id]) == {foretold.job_id: "PENDING"}
        assert relay.run_once() == 1
    quiet.wait_for("COMPLETED", [foretold.job_id])
    assert quiet.events(foretold.job_id) == ["submit", "claim", "succeed"]


def test_others_that_wait_go_with_it(relay: Relay, quiet: Stack) -> None:
    foretold = submitted(quiet.queue)
    lifecycle.submit([Submission("noop")] * 3)
    assert rung(relay, foretold) == 4
    assert (waiting(), quiet.messages(), relay.run_once()) == ([], 4, 0)


def test_without_a_row_there_is_nothing_to_settle(relay: Relay, quiet: Stack) -> None:
    """Somebody else took it, or somebody made the wake-up up."""
    assert rung(relay, Foretold(uuid4(), "noop", quiet.queue)) == 0
    assert quiet.messages() == 1
    assert rung(relay, submitted(quiet.queue)) == 1
    assert (waiting(), quiet.messages()) == ([], 2)


def test_what_was_rung_meanwhile_is_not_rung_again(relay: Relay, quiet: Stack) -> None:
    """Its wake-up waited while the relay was busy with the row itself."""
    foretold = submitted(quiet.queue)
    assert relay.run_once() == 1
    assert rung(relay, foretold) == 0
    assert quiet.messages() == 1


def test_an_unknown_queue_is_left_alone(relay: Relay, quiet: Stack) -> None:
    assert rung(relay, submitted("elsewhere")) == 1
    assert (waiting(), quiet.messages()) == ([], 1)


def test_a_take_that_fails_leaves_no_confirm_behind(
    relay: Relay, quiet: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its late confirm must not be taken for that of another message."""
    foretold = submitted(quiet.queue)

    def away(*_: object) -> Any:
        raise OperationalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(relays, "take", away)
        with pytest.raises(OperationalError):
            rung(relay, foretold)
    lifecycle.submit([Submission("noop")])
    assert relay.run_once() == 2
    assert waiting() == []
    # Rung once more: a doorbell too many harms nobody.
    assert quiet.messages() == 3


def test_a_full_queue_gets_its_row_back(
    relay: Relay, quiet: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare_small(quiet, monkeypatch, 1)
    assert rung(relay, submitted(quiet.queue)) == 1
    assert rung(relay, submitted(quiet.queue)) == 0
    assert (waiting(), quiet.messages()) == ([(1, None)], 1)
    # The queue is left alone now, by foretold jobs too.
    quiet.purge()
    assert rung(relay, submitted(quiet.queue)) == 0
    assert (waiting(), quiet.messages()) == ([(1, None), (0, None)], 0)


def test_after_trouble_nothing_is_rung_ahead(
    quiet: Stack,
    broker_proxy: Proxy,
    jobs_settings: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broker that blocks keeps what it was sent: one row at a time then, and no more."""
    jobs_settings(publish_timeout_seconds=1.0)
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", broker_proxy.url(quiet.services.broker_url))
    relay = Relay(app)
    assert rung(relay, submitted(quiet.queue)) == 1
    broker_proxy.blackhole("down")
    foretold = submitted(quiet.queue)
    with pytest.raises(BrokerTrouble, match="1 messages unconfirmed in time"):
        rung(relay, foretold)
    assert waiting() == [(1, None)]
    broker_proxy.heal(keep_held=False)
    sent: list[Message] = []
    begin = relay._publisher.begin

    def noting(message: Message) -> bool:
        sent.append(message)
        return begin(message)

    monkeypatch.setattr(relay._publisher, "begin", noting)
    assert rung(relay, foretold) == 1
    assert (sent, waiting()) == ([], [])
    assert rung(relay, submitted(quiet.queue)) == 1
    assert len(sent) == 1
    relay.close()


def test_trouble_while_it_is_sent_is_trouble(
    relay: Relay, quiet: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rung(relay, submitted(quiet.queue)) == 1
    foretold = submitted(quiet.queue)
    lifecycle.submit([Submission("noop")] * 3)

    def unsent(*_: object) -> str:
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "_send", unsent)
        with pytest.raises(BrokerTrouble):
            rung(relay, foretold)
    # Nothing was taken. One first, to see; then the others.
    assert waiting() == [(0, None)] * 4
    assert [relay.run_once() for _ in range(3)] == [1, 3, 0]


def test_without_a_connection_nothing_is_rung_ahead(relay: Relay, quiet: Stack) -> None:
    """To make one takes longer than the job would wait, and belongs to the round."""
    relay.ring_early(submitted(quiet.queue))
    assert (relay.run_once(), waiting(), quiet.messages()) == (1, [], 1)


def test_a_connection_that_the_broker_has_closed_is_not_used(
    quiet: Stack, broker_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", broker_proxy.url(quiet.services.broker_url))
    relay = Relay(app)
    assert rung(relay, submitted(quiet.queue)) == 1
    sock: Any = relay._publisher._producer.channel.connection.sock  # type: ignore[union-attr]
    broker_proxy.reset()
    until(lambda: select.select([sock], [], [], 0)[0], 20)
    relay.ring_early(submitted(quiet.queue))
    assert quiet.messages() == 1
    assert (relay.run_once(), waiting(), quiet.messages()) == (1, [], 2)
    relay.close()


def test_an_early_one_counts_for_its_queue(
    relay: Relay, quiet: Stack, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """A queue that refuses, but took something, is left alone no longer than before."""
    declare_small(quiet, monkeypatch, 1)
    for _ in range(3):
        foretold = submitted(quiet.queue)
        lifecycle.submit([Submission("noop")])
        assert rung(relay, foretold) == 1
        assert quiet.purge() == 1
        assert relay.run_once() == 0
        clock.forward(relays.FIRST_PAUSE_SECONDS)
