"""What a worker's main process does with messages that wait for a child of its pool."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery.worker import state
from celery.worker.request import Request
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from interlock.celery import app
from jobs import doorbells, drain, tasks
from jobs.gathering import SHORT_IN_A_ROW, WIDE, Gatherer, Held, Prefetch, Ring
from jobs.outstanding import Outstanding
from jobs.values import Doorbell

SHORT = 0.001


@pytest.fixture(autouse=True)
def celery_state() -> Iterator[None]:
    yield
    state.reset_state()


class Controller:
    """A worker with a pool of two children, which are busy until told to be free."""

    concurrency = 2

    def __init__(self) -> None:
        self.semaphore = LaxBoundedSemaphore(self.concurrency)
        self.begun: list[Ring] = []
        self.pool = self

    def free(self) -> None:
        self.semaphore.release()


class Told(Ring):
    """Remembers what the broker was told, and what a child was given."""

    told: list[str]

    def execute_using_pool(self, pool: Any, **_: Any) -> Any:
        pool.begun.append(self)


def message_of(body: list[Any], *, redelivered: bool = False, tag: int = 0) -> Any:
    return SimpleNamespace(
        channel="the channel",
        delivery_tag=tag,
        acknowledged=False,
        headers=doorbells.headers(str(uuid4())),
        body=json.dumps(body).encode(),
        payload=body,
        content_type="application/json",
        content_encoding="utf-8",
        properties={},
        delivery_info={"redelivered": redelivered},
    )


def ring(
    seconds: float | None = SHORT, *, args: Any = None, redelivered: bool = False, tag: int = 0
) -> Told:
    """A message with one job of ``seconds``, or with these arguments."""
    bell = doorbells.encode([Doorbell(uuid4(), 1)], seconds)
    body: list[Any] = [[bell] if args is None else args, {}, {}]
    told: list[str] = []
    message = message_of(body, redelivered=redelivered, tag=tag)

    def acknowledge(*_: Any, multiple: bool = False) -> None:
        told.append("ack of all" if multiple else "ack")
        message.acknowledged = True

    message.ack_log_error = acknowledge
    one = Told(
        message,
        app=app,
        task=tasks.ring,
        on_ack=acknowledge,
        on_reject=lambda *arguments: told.append(f"reject requeue={arguments[-1]}"),
    )
    one.told = told
    state.task_reserved(one)
    return one


def job_of(one: Ring) -> UUID:
    assert one.argument is not None
    [[job_id, _]] = one.argument["jobs"]
    return UUID(job_id)


def unused() -> Outstanding:
    """It has heard of no message, so that each is acknowledged by itself, and at once."""
    return Outstanding(lambda work: work())


def held(count: int, *more: Told) -> tuple[Controller, Held, list[Told]]:
    """Messages that wait while both children are busy with other ones."""
    controller = Controller()
    waiting = Held(controller, unused())
    rings = [ring() for _ in range(count)] + list(more)
    for one in [ring(), ring(), *rings]:
        waiting.add(one)
    assert len(controller.begun) == 2
    controller.begun.clear()
    return controller, waiting, rings


def given(one: Ring) -> list[UUID]:
    [argument], _, _ = json.loads(one.body)
    return [UUID(job_id) for job_id, _ in argument["jobs"]]


def test_a_message_that_need_not_wait_is_begun_at_once_and_alone() -> None:
    controller = Controller()
    waiting = Held(controller, unused())
    one = ring()
    waiting.add(one)
    assert controller.begun == [one]
    assert json.loads(one.body) == [[one.argument], {}, {}]


def test_children_share_what_waits() -> None:
    controller, _, rings = held(7)
    controller.free()
    controller.free()
    assert [given(one) for one in controller.begun] == [
        [job_of(one) for one in rings[:4]],
        [job_of(one) for one in rings[4:6]],
    ]
    controller.free()
    assert given(controller.begun[2]) == [job_of(rings[6])]


def test_all_are_acknowledged_when_they_are_done() -> None:
    controller, _, rings = held(4)
    controller.free()
    [leader] = controller.begun
    assert [one.told for one in rings] == [[], [], [], []]
    leader.on_success((False, None, 0.1))
    assert [one.told for one in rings] == [["ack"], ["ack"], [], []]


@pytest.mark.parametrize(
    ("driver", "words"),
    [("amqp", [[], [], [], ["ack of all"]]), ("redis", [["ack"], ["ack"], ["ack"], ["ack"]])],
)
def test_one_word_acknowledges_all_where_the_broker_knows_it(
    driver: str, words: list[list[str]]
) -> None:
    controller = Controller()
    soon: list[Callable[[], None]] = []
    transport = SimpleNamespace(driver_type=driver)
    gatherer = Gatherer(
        SimpleNamespace(
            controller=controller,
            on_task_request=None,
            connection=SimpleNamespace(transport=transport),
            hub=SimpleNamespace(call_soon=lambda work, *_: soon.append(work)),
            task_consumer=None,
        )
    )
    rings = [ring(tag=tag) for tag in range(1, 11)]
    for one in rings:
        gatherer.note(one.message)
        gatherer.take(one)
    for number, leader in enumerate(controller.begun[:2]):
        leader.on_success((False, None, 0.1))
        assert rings[number].told == ["ack"]
        controller.free()
    soon.clear()
    assert [len(leader.others) for leader in controller.begun[2:]] == [3, 1]
    controller.begun[2].on_success((False, None, 0.1))
    for work in soon:
        work()
    assert [one.told for one in rings[2:6]] == words
    assert all(one.acknowledged for one in rings[:6])


def test_all_go_back_to_the_broker_if_their_child_dies() -> None:
    controller, _, rings = held(4)
    controller.free()
    controller.begun[0].reject(requeue=True)
    assert [one.told for one in rings[:2]] == [["reject requeue=True"]] * 2


@pytest.mark.parametrize(
    "alone",
    [
        pytest.param(lambda: ring(None), id="of an unknown pace"),
        pytest.param(lambda: ring(redelivered=True), id="redelivered"),
        pytest.param(lambda: ring(0.3), id="longer than a group"),
        pytest.param(lambda: ring(args=[]), id="no doorbell"),
        pytest.param(lambda: ring(args=7), id="arguments that are none"),
        pytest.param(lambda: ring(args=[{"v": 1, "jobs": 7, "seconds": 0}]), id="malformed"),
        pytest.param(lambda: ring(args=[{"v": 1, "jobs": [["x", 1]], "seconds": 0}]), id="no id"),
        pytest.param(
            lambda: ring(args=[{"v": 1, "jobs": [["x", 1]] * 101, "seconds": 0}]),
            id="no ids at all",
        ),
        pytest.param(lambda: ring(args=[{"v": 2, "jobs": [], "seconds": 0}]), id="of the future"),
        pytest.param(lambda: ring(float("nan")), id="not a number"),
        pytest.param(lambda: ring(-1.0), id="negative"),
    ],
)
def test_such_a_message_is_answered_alone(alone: Callable[[], Told]) -> None:
    one, other = alone(), ring()
    controller, waiting, _ = held(0, one, other, ring(), ring())
    controller.free()
    assert controller.begun == [one]
    assert one.others == []

    one = alone()
    controller, waiting, rings = held(1)
    for late in (one, ring(), ring()):
        waiting.add(late)
    controller.free()
    controller.free()
    assert controller.begun == [rings[0], one]
    assert one.others == []


def test_no_more_jobs_than_a_group_may_have(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(group_limit=3)
    controller, _, rings = held(20)
    controller.free()
    assert given(controller.begun[0]) == [job_of(one) for one in rings[:3]]


def test_no_more_work_than_a_group_may_have(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(group_seconds=SHORT * 4.5)
    controller, _, rings = held(20)
    controller.free()
    assert given(controller.begun[0]) == [job_of(one) for one in rings[:4]]


def test_those_that_share_a_child_are_not_counted_as_waiting() -> None:
    controller, _, rings = held(4)
    controller.free()
    assert rings[0] in state.reserved_requests
    assert rings[1] not in state.reserved_requests
    assert rings[1].id not in state.requests


def test_what_a_lost_connection_brought_is_forgotten() -> None:
    controller, waiting, _ = held(4)
    controller.semaphore.clear()
    waiting.forget()
    one = ring()
    waiting.add(one)
    assert controller.begun == [one]


def test_tasks_of_the_projects_own_go_past_it() -> None:
    taken: list[Request] = []
    consumer = SimpleNamespace(controller=Controller(), on_task_request=taken.append)
    own = Request(message_of([[], {}, {}]), app=app, task=tasks.ring)
    Gatherer(consumer).take(own)
    assert taken == [own]


@pytest.mark.parametrize("stopping", [False, True])
def test_only_the_message_that_a_child_was_given_may_fail_to_be_acknowledged(
    *, stopping: bool
) -> None:
    """One error for a lost connection is enough; a worker that stops has not lost it."""
    controller, _, rings = held(4)
    controller.free()
    [leader] = controller.begun
    for request in (leader, Request(message_of([[], {}, {}]), app=app, task=tasks.ring)):
        state.active_requests.add(request)
    gatherer = Gatherer(SimpleNamespace(controller=controller, on_task_request=None))
    if stopping:
        drain.stop()
    try:
        gatherer.forget()
    finally:
        drain.clear()
    leader.acknowledge()
    assert [one.told for one in rings[:2]] == [["ack"], ["ack"] if stopping else []]


def test_a_child_that_is_free_for_nothing_stays_free() -> None:
    controller, waiting, rings = held(4)
    assert waiting.hand_back() == 4
    assert [one.told for one in rings] == [["reject requeue=True"]] * 4
    controller.free()
    assert controller.begun == []
    one = ring()
    waiting.add(one)
    assert controller.begun == [one]


class Broker:
    """What a consumer has asked its broker for, in order."""

    def __init__(self) -> None:
        self.asked: list[str | int] = []

    def cancel(self) -> None:
        self.asked.append("cancel")

    def qos(self, *, prefetch_count: int) -> None:
        self.asked.append(prefetch_count)

    def consume(self) -> None:
        self.asked.append("consume")

    def asked_for(self) -> list[str | int]:
        asked, self.asked = self.asked, []
        return asked


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Case:
    """A pool, and the prefetch that goes with it."""

    def __init__(self, children: int = 2) -> None:
        self.controller = Controller()
        self.held = Held(self.controller, unused())
        self.prefetch = Prefetch(self.held, children)
        self.broker = Broker()

    def arrive(self, one: Told) -> bool:
        self.held.add(one)
        return self.prefetch.note(one)

    def widen(self) -> None:
        while not self.arrive(ring()):
            self.controller.free()
        assert self.adjust()
        assert self.broker.asked_for() == ["cancel", 2 * WIDE, "consume"]
        while self.controller.semaphore.value:
            self.arrive(ring())
        for one in self.controller.begun[-2:]:
            state.active_requests.add(one)

    def adjust(self) -> bool:
        return self.prefetch.adjust(self.broker)  # type: ignore[arg-type] # what it uses of one


def test_many_short_messages_in_a_row_make_it_wide(clock: Clock) -> None:
    case = Case()
    answers = [case.arrive(ring()) for _ in range(2 * SHORT_IN_A_ROW)]
    assert answers == [False] * (2 * SHORT_IN_A_ROW - 1) + [True]
    assert case.adjust()
    assert case.broker.asked_for() == ["cancel", 2 * WIDE, "consume"]
    assert not case.arrive(ring())
    assert case.adjust()
    assert case.broker.asked_for() == []


def test_one_of_an_unknown_pace_begins_the_row_anew(clock: Clock) -> None:
    case = Case()
    row = 2 * SHORT_IN_A_ROW - 1
    assert not any(case.arrive(ring()) for _ in range(row))
    assert not case.arrive(ring(None))
    assert not any(case.arrive(ring()) for _ in range(row))
    assert case.arrive(ring())


@pytest.mark.parametrize(
    ("seconds", "per_child"),
    [(0.0, WIDE), (0.00125, WIDE), (0.02, 12), (0.1, 2), (0.13, 1), (5.0, 1)],
)
def test_what_waits_is_no_more_than_a_groups_work(
    clock: Clock, seconds: float, per_child: int
) -> None:
    case = Case()
    row = [ring() for _ in range(2 * SHORT_IN_A_ROW - 1)]
    answers = [case.arrive(one) for one in [ring(seconds), *row]]
    assert answers[-1] is (per_child > 1)
    case.adjust()
    asked = ["cancel", 2 * per_child, "consume"] if per_child > 1 else []
    assert case.broker.asked_for() == asked


@pytest.mark.parametrize(("jobs", "per_child"), [(1, WIDE), (3, 66), (100, 2), (500, 2)])
def test_nor_is_it_many_jobs(clock: Clock, jobs: int, per_child: int) -> None:
    """A worker that has none shall find some at the broker, and memory is for a message's jobs."""
    case = Case()
    large = doorbells.encode([Doorbell(uuid4(), 1)] * jobs, SHORT)
    answers = [case.arrive(ring()) for _ in range(2 * SHORT_IN_A_ROW - 1)]
    assert [*answers, case.arrive(ring(args=[large]))][-1]
    case.adjust()
    assert case.broker.asked_for() == ["cancel", 2 * per_child, "consume"]


def test_no_more_is_asked_for_than_a_broker_can_be_told(clock: Clock) -> None:
    case = Case(children=1000)
    while not case.arrive(ring()):
        pass
    case.adjust()
    assert case.broker.asked_for() == ["cancel", 65_535, "consume"]


def test_the_count_follows_only_what_differs_much(clock: Clock) -> None:
    case = Case()
    case.widen()
    for seconds, count in (
        (0.0012, None), (0.003, None), (0.06, 8), (0.03, 16), (0.001, 2 * WIDE),
    ):  # fmt: skip
        for _ in range(2 * SHORT_IN_A_ROW):
            case.arrive(ring(seconds))
        assert case.adjust()
        assert case.broker.asked_for() == ([] if count is None else ["cancel", count, "consume"])


def test_when_no_child_comes_free_what_waits_goes_back(clock: Clock) -> None:
    case = Case()
    case.widen()
    waiting = [ring() for _ in range(5)]
    for one in waiting:
        case.arrive(one)
    clock.now += 0.49
    assert case.adjust()
    assert case.broker.asked_for() == []
    clock.now += 0.02
    assert case.adjust()
    # Two old ones are being worked on, so that there is no child for another.
    assert case.broker.asked_for() == ["cancel"]
    assert [one.told for one in waiting] == [["reject requeue=True"]] * 5

    state.active_requests.discard(case.controller.begun[-1])
    assert case.adjust()
    assert case.broker.asked_for() == ["cancel", 1, "consume"]
    state.active_requests.discard(case.controller.begun[-2])
    assert not case.adjust()
    assert case.broker.asked_for() == ["cancel", 2, "consume"]


def test_as_long_as_children_come_free_nothing_goes_back(clock: Clock) -> None:
    case = Case()
    case.widen()
    for _ in range(40):
        case.arrive(ring(None))
    for _ in range(20):
        clock.now += 0.4
        case.controller.free()
        assert case.adjust()
    assert case.broker.asked_for() == []


def test_after_a_slow_job_it_stays_narrow_for_a_while(clock: Clock) -> None:
    case = Case()
    for pause in (10, 20, 40):
        case.widen()
        case.arrive(ring())
        clock.now += 0.6
        assert case.adjust()
        state.active_requests.clear()
        assert not case.adjust()
        assert case.broker.asked_for() == ["cancel", "cancel", 2, "consume"]
        assert not any(case.arrive(ring()) for _ in range(50))
        clock.now += pause - 0.1
        assert not case.arrive(ring())
        clock.now += 0.2
        assert case.arrive(ring())


def test_a_new_connection_begins_narrowly(clock: Clock) -> None:
    case = Case()
    case.widen()
    case.held.forget()
    case.prefetch.begin()
    assert not case.adjust()
    assert case.broker.asked_for() == []
    assert not case.arrive(ring())
