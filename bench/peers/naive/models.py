"""A job with a guarded state, and its audit trail."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django_fsm import FSMField, transition


class Job(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    state = FSMField(default="PENDING", protected=True)
    payload = models.JSONField()
    attempt = models.IntegerField(default=0)
    submitted_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    # Said, because the type checker's plugin knows the apps of one project alone.
    objects: ClassVar[models.Manager[Job]] = models.Manager()

    class Meta:
        app_label = "naive"
        db_table = "naive_job"

    def __str__(self) -> str:
        return f"{self.id} {self.state}"

    @transition(field=state, source="PENDING", target="RUNNING")
    def start(self) -> None:
        self.attempt += 1

    @transition(field=state, source="RUNNING", target="COMPLETED")
    def complete(self) -> None:
        """Nothing but the state."""


class Audit(models.Model):
    job = models.ForeignKey(Job, on_delete=models.CASCADE)
    source = models.CharField(max_length=20)
    target = models.CharField(max_length=20)
    at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager[Audit]] = models.Manager()

    class Meta:
        app_label = "naive"
        db_table = "naive_audit"

    def __str__(self) -> str:
        return f"{self.source} {self.target}"
