"""The outbox and uploads in the admin, to look at."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import DurationField, ExpressionWrapper, F, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from jobs import display
from jobs.admin.base import ReadOnlyAdmin
from jobs.admin.listing import KeysetChangeList
from jobs.models import OutboxEntry, Upload


class WaitingFilter(admin.SimpleListFilter):
    """What the relay has not published yet; the partial index holds just these rows."""

    title = "publishing"
    parameter_name = "waiting"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("all", "Not published"), ("due", "Not published and due")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in ("all", "due"):
            return queryset
        waiting = queryset.filter(published_at=None)
        return waiting.filter(due_at__lte=Now()) if self.value() == "due" else waiting


@admin.register(OutboxEntry)
class OutboxEntryAdmin(ReadOnlyAdmin):
    """Doorbells: what the relay has published, and what still waits for it."""

    change_list_template = "jobs/admin/keyset_list.html"
    list_display = (
        "id", "job", "handler", "queue", "priority", "status", "due", "created", "took", "tries",
        "rearms",
    )  # fmt: skip
    list_filter = (WaitingFilter,)
    lookups = frozenset({"waiting"})
    fields = readonly_fields = (
        "job", "job_version", "also", "handler", "queue", "priority", "status", "due_at",
        "created_at", "taken_until", "published_at", "tries", "rearms",
    )  # fmt: skip

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[Any]:
        return KeysetChangeList

    def get_queryset(self, request: HttpRequest) -> QuerySet[OutboxEntry]:
        late = ExpressionWrapper(Now() - F("due_at"), output_field=DurationField())
        return OutboxEntry.objects.annotate(late=late)

    @admin.display(description="Job")
    def job(self, entry: OutboxEntry) -> SafeString:
        link = display.job_link(entry.job_id)
        if not entry.others:
            return link
        return format_html("{} and {} more", link, len(entry.others))

    @admin.display(description="Also for")
    def also(self, entry: OutboxEntry) -> SafeString | str:
        links = ((display.job_link(job_id),) for job_id in entry.others or ())
        return format_html_join(" ", "{}", links) or "–"

    @admin.display(description="Status")
    def status(self, entry: OutboxEntry) -> SafeString:
        if entry.published_at:
            return display.badge("published", "good")
        if getattr(entry, "late").total_seconds() < 0:  # noqa: B009  # an annotation, unknown to types
            return display.badge("scheduled", "idle")
        return display.badge("waiting", "wait")

    @admin.display(description="Due")
    def due(self, entry: OutboxEntry) -> SafeString | str:
        return display.ago(entry.due_at)

    @admin.display(description="Written")
    def created(self, entry: OutboxEntry) -> SafeString | str:
        return display.ago(entry.created_at)

    @admin.display(description="Published after")
    def took(self, entry: OutboxEntry) -> str:
        if entry.published_at is None:
            return "–"
        return display.span(entry.published_at - max(entry.due_at, entry.created_at))


@admin.register(Upload)
class UploadAdmin(ReadOnlyAdmin):
    """Files that owners gave for their jobs to read."""

    list_display = ("name", "owner", "file_size", "created", "id")
    list_select_related = ("owner",)
    ordering = ("-created_at",)
    fields = readonly_fields = ("id", "name", "owner", "file_size", "sha256", "created_at")

    @admin.display(description="Size")
    def file_size(self, upload: Upload) -> str:
        return display.size(upload.size_bytes)

    @admin.display(description="Uploaded")
    def created(self, upload: Upload) -> SafeString | str:
        return display.ago(upload.created_at)
