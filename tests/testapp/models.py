"""What the chaos handlers leave behind in the same database: the effect of a job."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Effect(models.Model):
    """The side effect of one completed job, written in the transaction that completes it.

    ``token`` and ``attempt`` are those of the attempt that wrote it, so that the judge can compare
    them with the audit: an effect of any other attempt is a fault.
    """

    job_id = models.UUIDField(unique=True)
    token = models.UUIDField()
    attempt = models.IntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager[Effect]] = models.Manager()

    class Meta:
        # Named, because the unit ring imports the handlers without installing this app.
        app_label = "testapp"

    def __str__(self) -> str:
        return f"effect of {self.job_id}"
