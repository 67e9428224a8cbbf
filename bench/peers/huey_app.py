"""Huey's tasks, as its consumer imports them."""

from __future__ import annotations

import os

from huey import RedisHuey

from bench import marks

huey = RedisHuey("bench", url=os.environ["CACHE_URL"])
ran = huey.task()(marks.ran)
