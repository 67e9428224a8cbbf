"""Huey on Redis: a consumer with two processes, results stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.marks import PADDING
from bench.peers.base import Peer, module


class Huey(Peer):
    """At most once: a job that is popped when its consumer dies is gone, as is Redis' memory."""

    has_status = True

    def prepare(self) -> None:
        from bench.peers import huey_app

        self.huey, self.task = huey_app.huey, huey_app.ran

    def commands(self) -> dict[str, list[str]]:
        program = "huey.bin.huey_consumer"
        return {"worker": module(program, "bench.peers.huey_app.huey", "-w", "2", "-k", "process")}

    def submit(self, number: int) -> Any:
        return self.task(number, PADDING).id

    def visible(self, handle: Any) -> bool:
        return bool(self.huey.storage.has_data_for_key(handle))

    def settled(self, handles: Sequence[Any], total: int) -> bool:
        del handles
        return int(self.huey.result_count()) >= total
