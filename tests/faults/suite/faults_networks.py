"""Bad networks between the processes and each server, and between clients and the API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from random import Random

from tests.faults.suite.fault import Back, Part, every, fault
from tests.faults.suite.world import World
from tests.proxy import Proxy

SERVERS: dict[str, tuple[Part, Back, list[str]]] = {
    "PostgreSQL": ("postgres", "database", ["I1", "I3", "I5", "I16"]),
    "RabbitMQ": ("rabbitmq", "broker", ["I2", "I6", "I9"]),
    "Redis": ("redis", "redis", ["I10", "I13"]),
}
Harm = Callable[[Proxy, Random], object]


@contextmanager
def healed(proxy: Proxy) -> Iterator[Proxy]:
    """Heals at the end, whatever happens inside."""
    try:
        yield proxy
    finally:
        proxy.heal()


def _slow(proxy: Proxy, rng: Random) -> None:
    proxy.latency(rng.uniform(0.02, 0.1), jitter=0.1)


def _cuts(proxy: Proxy, rng: Random) -> None:
    low = rng.randint(200, 2000)
    proxy.cut_after(low, low * 20)


HARMS: dict[str, Harm] = {
    "slow": _slow,
    "refused": lambda proxy, _: proxy.cut(),
    "cut after some bytes": _cuts,
    "blackhole towards it": lambda proxy, _: proxy.blackhole("up"),
    "blackhole from it": lambda proxy, _: proxy.blackhole("down"),
}

#: Under these no confirm can arrive.
MUTE = ("refused", "blackhole towards it", "blackhole from it")


def _bad(server: str, harm: str, hold: float) -> None:
    part, back, threatens = SERVERS[server]

    @fault(
        f"network of {server}: {harm}", threatens=threatens, touches=[part], back=back, hold=hold
    )
    def bad(world: World, rng: Random) -> Iterator[None]:
        proxy: Proxy = getattr(world.proxies, part)
        quiet = world.silence(harm) if part == "rabbitmq" and harm in MUTE else nullcontext()
        with healed(proxy):
            HARMS[harm](proxy, rng)
            with quiet:
                yield


def _resets(server: str) -> None:
    part, back, threatens = SERVERS[server]

    @fault(
        f"network of {server}: all connections reset every second",
        threatens=threatens,
        touches=[part],
        back=back,
        hold=2.5,
    )
    def resets(world: World, rng: Random) -> Iterator[None]:
        proxy: Proxy = getattr(world.proxies, part)
        with every(1.0, proxy.reset):
            yield


for _server in SERVERS:
    for _harm in HARMS:
        _bad(_server, _harm, hold=1.5)
    _resets(_server)


@fault(
    "network of the API: cut after some bytes",
    threatens=["I1", "I16"],
    touches=["api"],
    back="platform",
)
def api_cuts(world: World, rng: Random) -> Iterator[None]:
    """Clients lose answers in the middle and ask again with their keys."""
    with ExitStack() as exits:
        for proxy in world.api_proxies:
            _cuts(exits.enter_context(healed(proxy)), rng)
        yield
