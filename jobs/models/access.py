"""API keys, and the registry of worker processes."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from enum import StrEnum
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models.functions import Now


class Scope(StrEnum):
    """What an API key may do. A key holds any set of these."""

    READ = "read"
    SUBMIT = "submit"
    OPERATE = "operate"


class ApiKey(models.Model):
    """A bearer key. Only its SHA-256 is stored: 256 random bits need no slow hash.

    The first characters stay readable so that a person can tell keys apart.
    """

    PREFIX: ClassVar[str] = "ilk_"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="jobs_api_keys"
    )
    name = models.CharField(max_length=100)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    hint = models.CharField(max_length=12, editable=False)
    scopes = models.JSONField(default=list)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"

    @classmethod
    def new_secret(cls) -> str:
        return cls.PREFIX + secrets.token_urlsafe(32)

    @staticmethod
    def digest_of(secret: str) -> str:
        return hashlib.sha256(secret.encode()).hexdigest()


class Worker(models.Model):
    """A worker process that has been seen. Times are the database's clock."""

    name = models.CharField(max_length=200, primary_key=True)
    kind = models.CharField(max_length=20, default="worker")
    hostname = models.CharField(max_length=200)
    pid = models.IntegerField()
    queues = models.JSONField(default=list)
    release = models.CharField(max_length=50, default="")
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())
    stopped_at = models.DateTimeField(null=True)

    class Meta:
        default_permissions = ("view",)
        indexes = [models.Index(name="jobs_worker_seen", fields=["seen_at"])]

    def __str__(self) -> str:
        return self.name
