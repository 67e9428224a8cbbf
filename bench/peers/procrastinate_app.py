"""Procrastinate's app, as its worker command imports it."""

from __future__ import annotations

import os

import procrastinate

from bench import marks

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=os.environ["DATABASE_URL"])
)


async def _ran(number: int, pad: str) -> None:
    marks.ran(number, pad)


ran = app.task(name="bench.ran", queue="bench")(_ran)
