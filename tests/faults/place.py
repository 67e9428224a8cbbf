"""A platform whose workers meet the broker through a proxy, so that their line alone can be cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from tests.faults.conftest import Servers
from tests.marks import until
from tests.proxy import Proxy
from tests.stack import TIMINGS, Process, Stack

#: What a stop may take: the grace of the handlers, the broker's last words, a loaded machine.
STOP_SECONDS = TIMINGS["drain_grace_seconds"] + 3 * TIMINGS["stop_grace_seconds"] + 12
#: How long a worker may be deaf before it does something about it.
DEAF_SECONDS = 4.0


class Place(Stack):
    """A stack whose workers reach the broker through a proxy; everybody else goes directly."""

    proxy: Proxy

    def worker(
        self, *, heartbeat_seconds: int = 10, settings: str = "settings_stack", wait: bool = True
    ) -> Process:
        """Start a worker. A long heartbeat leaves it to the watchdog to notice a silent broker."""
        url = f"amqp://guest:guest@127.0.0.1:{self.proxy.port}//?heartbeat={heartbeat_seconds}"
        variables = {"BROKER_URL": url, "DJANGO_SETTINGS_MODULE": f"tests.{settings}"}
        process = self.spawn("worker", variables=variables)
        if wait:
            until(lambda: self.ready(process), 60, self.tails)
        return process

    def run_jobs(self, count: int = 4) -> list[UUID]:
        """Jobs that the worker has done prove that it hears."""
        ids = self.submit("noop", {}, count=count)
        self.check(ids)
        return ids


@contextmanager
def opened(servers: Servers, migrated: str, directory: Path) -> Iterator[Place]:
    """A place with everything but a worker at work."""
    servers.heal()
    with (
        Proxy("127.0.0.1", servers.rabbitmq.port) as proxy,
        Place(servers.services, migrated, directory, deaf_seconds=DEAF_SECONDS) as place,
    ):
        place.proxy = proxy
        place.start("api", "relay", "scheduler")
        yield place
        servers.heal()
