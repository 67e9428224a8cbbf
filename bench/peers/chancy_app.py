"""A Chancy worker: ``python -m bench.peers.chancy_app``."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from chancy import Chancy, Worker, job

from bench import marks


async def _ran(*, number: int, pad: str) -> None:
    marks.ran(number, pad)


ran: Any = job(queue="bench")(_ran)


async def main() -> None:
    """Work until SIGTERM."""
    async with Chancy(os.environ["DATABASE_URL"]) as chancy, Worker(chancy) as worker:
        await worker.wait_for_shutdown()


if __name__ == "__main__":
    asyncio.run(main())
