"""What the scenario asks of a job queue, ours included."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import amqp
from kombu.utils.url import parse_url

from bench.marks import PADDING
from bench.place import Place
from bench.processes import Running, Tree

ROOT = Path(__file__).resolve().parents[2]


def module(*arguments: str) -> list[str]:
    """The command line of a Python module in the interpreter that measures."""
    return [sys.executable, "-W", "ignore", "-m", *arguments]


class Peer(ABC):
    """A job queue with two worker slots. An object lives in the process that submits."""

    #: Queues to delete from the broker at the end.
    queues: ClassVar[Sequence[str]] = ()
    #: Whether it keeps a status that a client can read.
    has_status: ClassVar[bool] = False
    #: Whether it has a call that submits many.
    has_bulk: ClassVar[bool] = False
    #: Roles that are frozen while a backlog is built: all that works it off.
    consumers: ClassVar[Sequence[str]] = ("worker",)
    #: Beside the cell's environment; there before ``prepare``.
    environment: ClassVar[Mapping[str, str]] = {}

    def __init__(self, place: Place) -> None:
        self.place = place
        self.running: dict[str, Running] = {}

    # -- what a peer says -----------------------------------------------------------------------

    def prepare(self) -> None:  # noqa: B027 - not every peer has something to prepare
        """Schema and queues; before any worker starts."""

    @abstractmethod
    def commands(self) -> dict[str, list[str]]:
        """Its processes by name; a name is a role, or a role with a number behind a hyphen."""

    @abstractmethod
    def submit(self, number: int) -> Any:
        """Submit one job as its users do; returns what finds its status."""

    def submit_each(self, numbers: Sequence[int]) -> list[Any]:
        """One call for each, one after another."""
        return [self.submit(number) for number in numbers]

    def submit_many(self, numbers: Sequence[int]) -> list[Any]:
        """Its own call for many, if it has one."""
        raise NotImplementedError

    def visible(self, handle: Any) -> bool:
        """Whether the status store says that this job is done."""
        raise NotImplementedError

    def settled(self, handles: Sequence[Any], total: int) -> bool:
        """Whether the status store says so of all these, the latest of ``total`` jobs in all."""
        raise NotImplementedError

    def details(self, handles: Sequence[Any]) -> dict[str, float]:
        """More figures about the jobs of the latency phase, if it can say them."""
        return {}

    def close(self) -> None:  # noqa: B027 - nor to give back
        """Give back what the submitting side holds."""

    # -- what all share -------------------------------------------------------------------------

    def start(self) -> None:
        for name, command in self.commands().items():
            log = self.place.path / f"{name}.log"
            self.running[name] = Running(command, os.environ, ROOT, log)

    def stop(self) -> None:
        for one in reversed(self.running.values()):
            one.stop()
        with suppress(Exception):
            self.close()
        if self.queues:
            delete_queues(self.place.broker_url, self.queues)

    def roles(self) -> dict[str, list[Tree]]:
        """The process trees that count as its own."""
        found: dict[str, list[Tree]] = {}
        for name, one in self.running.items():
            found.setdefault(name.partition("-")[0], []).append(one.tree)
        return found

    def trees(self, roles: Sequence[str]) -> list[Tree]:
        return [tree for role, trees in self.roles().items() if role in roles for tree in trees]

    def require_alive(self) -> None:
        """Raises RuntimeError with the last words of a process that has ended."""
        for name, one in self.running.items():
            if one.ended:
                raise RuntimeError(f"{name} ended: {one.last_words()}")


def payload(number: int) -> dict[str, Any]:
    """The same for everybody: about 100 bytes of JSON."""
    return {"number": number, "pad": PADDING}


def delete_queues(url: str, names: Sequence[str]) -> None:
    """Delete what a peer left on the broker; a queue that never was is no error."""
    with amqp_connection(url) as connection:
        for name in names:
            with suppress(amqp.exceptions.NotFound):
                connection.channel().queue_delete(name)


def amqp_connection(url: str) -> Any:
    """A plain connection, not opened through any framework."""
    parts = parse_url(url)
    return amqp.Connection(
        host=f"{parts['hostname']}:{parts['port']}",
        userid=parts["userid"],
        password=parts["password"],
        virtual_host=parts["virtual_host"] or "/",
    )
