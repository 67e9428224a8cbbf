"""A complete environment for the tests, made before Django reads its settings.

Loaded as ``-p tests.environment`` (pyproject.toml), because pytest-django reads the settings before
any conftest. `./dev test` gives the three services; the unit ring touches none of them and also
runs without, on the placeholders below. Whoever asks for the database then is told what to do.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

UNSET = "unset"
HOW_TO = "this test needs PostgreSQL, RabbitMQ and Redis: run ./dev test, or set DATABASE_URL"


def complete() -> None:
    """Fill in what is missing; what is set stays."""
    os.environ.setdefault("DATABASE_URL", f"postgres://{UNSET}@127.0.0.1:1/{UNSET}")
    os.environ.setdefault("BROKER_URL", f"amqp://{UNSET}@127.0.0.1:1//")
    os.environ.setdefault("INTERLOCK_SECRET_KEY", "a key for tests and for nothing else")
    if "INTERLOCK_DATA_DIR" not in os.environ:
        directory = tempfile.mkdtemp(prefix="interlock-tests-")
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        os.environ["INTERLOCK_DATA_DIR"] = directory


def has_database() -> bool:
    """Whether there is a real server behind DATABASE_URL."""
    return UNSET not in os.environ["DATABASE_URL"]


complete()
