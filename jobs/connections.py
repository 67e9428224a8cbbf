"""This thread's database connections: one cursor that is kept, and their state around code that is
not ours."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from datetime import timezone

from django.db import DEFAULT_DB_ALIAS, close_old_connections, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.backends.utils import CursorWrapper
from django.dispatch import receiver

log = logging.getLogger("jobs.connections")

_IDLE = 0  # psycopg's TRANSACTION_STATUS_IDLE


class _Opened(threading.local):
    """This thread's connections that have been opened: no other can have been left dirty.

    Django's own list of them takes 2 us to read, which would come after each job.
    """

    def __init__(self) -> None:
        self.all: list[BaseDatabaseWrapper] = []


_opened = _Opened()


@receiver(connection_created, dispatch_uid="jobs.connections")
def _note(connection: BaseDatabaseWrapper, **_: object) -> None:
    if not any(connection is known for known in _opened.all):
        _opened.all.append(connection)


class _Kept(threading.local):
    cursor: CursorWrapper | None = None


_kept = _Kept()


def kept_cursor() -> CursorWrapper:
    """This thread's cursor, for statements whose rows are fetched at once.

    As good as a new one, which takes as long to make as a twentieth of a lone submit: another one
    comes after it was closed, or when Django opens the connection anew, and none is kept while
    statements are recorded. Raises what ``connection.cursor()`` raises.
    """
    connection = connections[DEFAULT_DB_ALIAS]
    connection.close_if_health_check_failed()
    cursor = _kept.cursor
    if (
        cursor is None
        or cursor.closed
        or cursor.cursor.connection is not connection.connection
        or connection.queries_logged
    ):
        cursor = connection.cursor()
        # Django's is a function in Python, called for every time in every row.
        cursor.cursor.tzinfo_factory = timezone
        _kept.cursor = None if connection.queries_logged else cursor
    return cursor


def refresh() -> None:
    """Make kept connections fit for use: none in a transaction, none that is broken or too old.

    The default one is not asked whether it lives: a verb comes next, and repeats itself on another
    connection if not. Asking would be a round trip more for every message.
    """
    _opened.all = list(connections.all(initialized_only=True))
    tidy()
    close_old_connections()
    default = connections[DEFAULT_DB_ALIAS]
    default.health_check_done = default.connection is not None  # type: ignore[attr-defined] # not in django-stubs


def tidy() -> None:
    """Give up every connection on which a handler has left a transaction open or broken.

    What it wrote there is rolled back. Django's own record of the transaction goes with it: an
    ``atomic()`` that was entered and never left would make all later writes a part of it.
    """
    for connection in tuple(_opened.all):
        if _is_dirty(connection):
            log.warning("a handler left a transaction open; its connection is closed")
            _give_up(connection)


def give_up_all() -> None:
    """Close this thread's connections, with whatever is open on them: the thread is ending."""
    for connection in connections.all(initialized_only=True):
        _give_up(connection)


def _is_dirty(connection: BaseDatabaseWrapper) -> bool:
    if connection.in_atomic_block:
        return True
    if connection.connection is None:
        return False
    if connection.autocommit != connection.settings_dict["AUTOCOMMIT"]:
        return True
    info = getattr(connection.connection, "info", None)
    return not connection.connection.closed and getattr(info, "transaction_status", _IDLE) != _IDLE


def _give_up(connection: BaseDatabaseWrapper) -> None:
    _opened.all = [opened for opened in _opened.all if opened is not connection]
    raw, connection.connection = connection.connection, None
    if raw is not None:
        with suppress(Exception):
            raw.close()
    if connections[connection.alias] is connection:
        # Django makes a new one, with no memory of this one's transaction, at the next use.
        del connections[connection.alias]
