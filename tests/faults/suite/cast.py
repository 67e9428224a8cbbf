"""The processes of a world, and the supervisor that starts again whatever has ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil
import psycopg2

from tests.marks import until
from tests.stack import Process, Role, Stack

RESTART_SECONDS = 0.5
#: How many of each role.
CAST: dict[Role, int] = {"api": 2, "worker": 2, "relay": 2, "scheduler": 2}
_LOOK_SECONDS = 0.05


@dataclass
class Slot:
    """A place in the cast, and who fills it at the moment."""

    name: str
    role: Role
    port: int | None
    process: Process
    variables: Mapping[str, str] = field(default_factory=dict)
    running_with: Mapping[str, str] = field(default_factory=dict)
    seen_dead_at: float | None = None


class Cast:
    """Every role twice. ``restarts`` counts by role what was started again.

    ``killed`` are the pids that faults have killed, with the time of it: how long their jobs took
    to come back is measured afterwards.
    """

    stack: Stack

    def __init__(self) -> None:
        self.restarts: Counter[str] = Counter()
        self.killed: list[tuple[int, float]] = []
        self._slots: list[Slot] = []
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="supervisor", daemon=True)

    def fill(self, api_ports: Sequence[int]) -> None:
        """Start everybody, without waiting."""
        for role, count in CAST.items():
            for index in range(count):
                port = api_ports[index] if role == "api" else None
                process = self.stack.spawn(role, port=port)
                self._slots.append(Slot(f"{role}-{index + 1}", role, port, process))

    def watch_over(self) -> None:
        """Wait until everybody is at work, and keep it so from now on."""
        for slot in self._slots:
            until(lambda s=slot: self.stack.ready(s.process), 90, self.stack.tails)  # type: ignore[misc] # a lambda's default
        self._keeper.start()

    def dismiss(self) -> None:
        """Start nobody again."""
        self._ended.set()
        if self._keeper.is_alive():
            self._keeper.join(10)

    # -- processes ------------------------------------------------------------------------------

    def processes(self, role: Role) -> list[Process]:
        """Those of this role that run at the moment, in the order of the cast."""
        return [slot.process for slot in self.slots(role) if slot.process.alive]

    def slots(self, role: Role) -> list[Slot]:
        with self._lock:
            return [slot for slot in self._slots if slot.role == role]

    def spawn(self, role: Role, variables: Mapping[str, str] | None = None) -> Process:
        """One more of this role beside the cast; nobody starts it again when it ends."""
        return self.stack.spawn(role, variables=variables)

    def pool(self) -> list[int]:
        """The pids of all workers' children."""
        children: list[int] = []
        for worker in self.processes("worker"):
            with suppress(psutil.Error):
                children += worker.children()
        return children

    def kill(self, *victims: Process, noted: bool = True) -> None:
        """``kill -9`` of these with their children; noted unless the rescuers die with them."""
        for process in victims:
            if noted:
                self.note_killed(process.pid, *children_of(process))
            process.kill()

    def kill_pid(self, pid: int) -> None:
        """``kill -9`` of one child, and note it."""
        self.note_killed(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def note_killed(self, *pids: int) -> None:
        """These have just been killed."""
        now = time.time()
        self.killed.extend((pid, now) for pid in pids)

    @contextmanager
    def otherwise(self, slot: Slot, variables: Mapping[str, str]) -> Iterator[None]:
        """Fill this slot with a process that has these variables as well, then with a usual one.

        Both times the one before is killed: a drain would take longer than the fault.
        """
        self._replace(slot, variables)
        try:
            yield
        finally:
            self._replace(slot, {})

    def _replace(self, slot: Slot, variables: Mapping[str, str]) -> None:
        with self._lock:
            slot.variables = variables
            if slot.process.alive:
                self.kill(slot.process)

    def wait_whole(self, seconds: float = 60) -> None:
        """Wait until the whole cast is at work."""
        for slot in list(self._slots):
            until(lambda s=slot: self._works(s), seconds, lambda s=slot: f"{s.name} is not at work")  # type: ignore[misc] # a lambda's default

    def wait_replaced(self, slot: Slot, seconds: float = 60) -> None:
        """Wait until this slot's new process is at work."""
        until(
            lambda: slot.running_with == slot.variables and self._works(slot),
            seconds,
            lambda: f"{slot.name} was not replaced",
        )

    def _works(self, slot: Slot) -> bool:
        with suppress(AssertionError, psycopg2.Error, OSError):
            return slot.process.alive and self.stack.ready(slot.process)
        return False

    def _keep(self) -> None:
        """The supervisor's thread: it lives as long as the world, so it may leash."""
        while not self._ended.wait(_LOOK_SECONDS):
            with self._lock:
                for slot in self._slots:
                    self._look_after(slot)

    def _look_after(self, slot: Slot) -> None:
        if slot.process.alive:
            return
        now = time.monotonic()
        if slot.seen_dead_at is None:
            slot.seen_dead_at = now
            # What its main process left behind would hold its port and its jobs.
            slot.process.kill()
        elif now - slot.seen_dead_at >= RESTART_SECONDS:
            self.restarts[slot.role] += 1
            slot.process = self.stack.spawn(
                slot.role, port=slot.port, variables=slot.variables, leashed=True
            )
            slot.running_with = slot.variables
            slot.seen_dead_at = None


def children_of(process: Process) -> list[int]:
    """The pids of its children; none when it is gone."""
    with suppress(psutil.Error):
        return process.children()
    return []
