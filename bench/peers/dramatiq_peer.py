"""Dramatiq on RabbitMQ with publisher confirms: two processes of eight threads."""

from __future__ import annotations

from typing import Any

from bench.marks import PADDING
from bench.peers.base import Peer, module


class Dramatiq(Peer):
    """Durable queue, acknowledged after the run; no results, no audit."""

    queues = tuple(f"bench-dramatiq{suffix}" for suffix in ("", ".DQ", ".XQ"))

    def prepare(self) -> None:
        from bench.peers import dramatiq_app

        self.actor = dramatiq_app.ran

    def commands(self) -> dict[str, list[str]]:
        worker = module("dramatiq", "bench.peers.dramatiq_app", "-p", "2", "-t", "8")
        return {"worker": worker}

    def submit(self, number: int) -> Any:
        return self.actor.send(number, PADDING).message_id
