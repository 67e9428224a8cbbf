"""A pgqueuer worker: ``python -m bench.peers.pgqueuer_app``.

Started from Python rather than by ``pgq run``, with that command's defaults.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver

from bench import marks


async def main() -> None:
    """Work until SIGTERM."""
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    queuer: Any = PgQueuer(AsyncpgDriver(connection))
    queuer.entrypoint("bench")(_ran)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queuer.shutdown.set)
    await queuer.run(batch_size=10)


async def _ran(job: Any) -> None:
    marks.ran(**json.loads(job.payload))


if __name__ == "__main__":
    asyncio.run(main())
