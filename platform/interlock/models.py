"""What the platform itself keeps beside the jobs."""

from __future__ import annotations

from django.db import models


class LoginCount(models.Model):
    """Logins tried lately by one address, or for one name from one address: see ``login.py``."""

    #: SHA-256 of whom it is about: names and addresses of people are not kept.
    digest = models.CharField(max_length=64, primary_key=True)
    tries = models.IntegerField()
    #: By the database's clock. Afterwards the row means nothing.
    ends_at = models.DateTimeField(db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.digest[:12]
