"""Types of columns that Django has no field for."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

if TYPE_CHECKING:
    _Field = models.Field[list[UUID] | None, list[UUID] | None]
else:
    # Only for type checkers is it generic.
    _Field = models.Field


class UUIDArrayField(_Field):
    """An array of UUIDs, without lookups of its own.

    Django's ``ArrayField`` would have every project that uses this app install
    ``django.contrib.postgres`` as well: from 6.1 on a system check demands it.
    """

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        return "uuid[]"
