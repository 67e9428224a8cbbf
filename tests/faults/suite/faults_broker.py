"""RabbitMQ stops, dies, forgets, refuses, and repeats itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from random import Random

from tests.faults.suite import doorbells
from tests.faults.suite.fault import every, fault
from tests.faults.suite.faults_processes import freeze
from tests.faults.suite.world import World


@fault(
    "RabbitMQ: application stopped and started",
    threatens=["I1", "I9"],
    touches=["rabbitmq"],
    back="broker",
    hold=1.5,
)
def stopped(world: World, rng: Random) -> Iterator[None]:
    world.ctl("stop_app")
    with world.silence("stop_app"):
        yield
    world.ctl("start_app")


@fault(
    "RabbitMQ: kill -9",
    threatens=["I2", "I5", "I6", "I9"],
    touches=["rabbitmq"],
    back="broker",
    hold=1.5,
)
def killed(world: World, rng: Random) -> Iterator[None]:
    world.servers.rabbitmq.kill()
    with world.silence("kill -9"):
        yield
    world.servers.rabbitmq.start()


@fault(
    "RabbitMQ: restarted empty",
    threatens=["I2", "I9"],
    touches=["rabbitmq"],
    back="broker",
    hold=0.0,
)
def emptied(world: World, rng: Random) -> Iterator[None]:
    """It comes back as a new one: no queue, no message."""
    world.ctl("stop_app")
    world.ctl("reset")
    with world.silence("reset"):
        yield
    world.ctl("start_app")


@fault(
    "RabbitMQ: frozen",
    threatens=["I5", "I9"],
    touches=["rabbitmq"],
    back="broker",
    hold=3.5,
)
def frozen(world: World, rng: Random) -> Iterator[None]:
    pid = world.servers.rabbitmq.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        with world.silence("SIGSTOP"):
            yield
    finally:
        os.kill(pid, signal.SIGCONT)


@fault(
    "RabbitMQ: queue purged under load",
    threatens=["I2"],
    touches=["rabbitmq"],
    back="broker",
)
def purged(world: World, rng: Random) -> Iterator[None]:
    def purge() -> None:
        with world.channel() as channel:
            channel.queue_purge(world.queue)

    with every(0.5, purge):
        yield


@fault("RabbitMQ: queue deleted", threatens=["I2", "I9"], touches=["rabbitmq"], back="broker")
def deleted(world: World, rng: Random) -> Iterator[None]:
    with world.channel() as channel:
        channel.queue_delete(world.queue)
    yield


@fault(
    "RabbitMQ: queue gone and no worker to make it again",
    threatens=["I9"],
    touches=["rabbitmq", "worker"],
    back="broker",
)
def unroutable(world: World, rng: Random) -> Iterator[None]:
    """What the relay publishes is returned: it must neither count as rung nor be lost."""
    mains = [worker.pid for worker in world.processes("worker")]
    freeze(mains)
    try:
        with world.channel() as channel:
            channel.queue_delete(world.queue)
        yield
    finally:
        freeze(mains, signal.SIGCONT)


@fault(
    "RabbitMQ: all connections closed again and again",
    threatens=["I6", "I15"],
    touches=["rabbitmq"],
    back="broker",
    hold=3.0,
)
def closed(world: World, rng: Random) -> Iterator[None]:
    with every(1.0, lambda: world.ctl("close_all_connections", "on purpose")):
        yield


def _alarm(name: str, on: tuple[str, str], off: tuple[str, str]) -> None:
    @fault(name, threatens=["I9"], touches=["rabbitmq"], back="broker")
    def alarm(world: World, rng: Random) -> Iterator[None]:
        # No silence: the first message of each connection is taken and confirmed all the same.
        world.ctl(*on)
        try:
            yield
        finally:
            world.ctl(*off)


_WATERMARK, _FREE = "set_vm_memory_high_watermark", "set_disk_free_limit"
_alarm("RabbitMQ: memory alarm", (_WATERMARK, "0"), (_WATERMARK, "0.4"))
_alarm("RabbitMQ: disk alarm", (_FREE, "999GB"), (_FREE, "50MB"))


def _strange(name: str, threatens: list[str], ring: Callable[[World, Random], int]) -> None:
    @fault(
        f"doorbells: {name}",
        threatens=threatens,
        touches=["rabbitmq"],
        back="platform",
        hold=0.5,
    )
    def strange(world: World, rng: Random) -> Iterator[None]:
        ring(world, rng)
        yield


_strange("the same one 100 times", ["I5", "I6", "I8"], doorbells.repeated)
_strange("of ended jobs and of old versions", ["I5", "I6"], doorbells.stale)
_strange("in another order", ["I2"], doorbells.reordered)
_strange("that nobody can read", ["I15"], doorbells.undecodable)
_strange("of jobs that do not exist", ["I9", "I15"], doorbells.unknown)
