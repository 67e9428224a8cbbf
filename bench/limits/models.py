"""The row behind the usual status view."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Status(models.Model):
    state = models.CharField(max_length=20)
    version = models.IntegerField(default=3)
    progress = models.FloatField(default=1.0)
    message = models.CharField(max_length=400, default="")
    changed_at = models.DateTimeField(auto_now=True)

    # Said, because the type checker's plugin knows the apps of one project alone.
    objects: ClassVar[models.Manager[Status]] = models.Manager()

    class Meta:
        app_label = "limits"
        db_table = "bench_status"

    def __str__(self) -> str:
        return self.state
