"""API keys and worker processes in the admin."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db.models import DurationField, ExpressionWrapper, F, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.safestring import SafeString

from jobs import conf, display, keys
from jobs.admin.base import ReadOnlyAdmin
from jobs.models import ApiKey, Scope, Worker


class KeyForm(forms.Form):
    """A new key. Only a superuser may give one to somebody else: a key acts as its owner."""

    name = forms.CharField(max_length=100, help_text="What will use it, for people to recognise.")
    owner = forms.CharField(max_length=254, help_text="The user as whom the key acts.")
    scopes = forms.MultipleChoiceField(
        choices=[(scope.value, scope.value.capitalize()) for scope in Scope],
        widget=forms.CheckboxSelectMultiple,
        initial=[Scope.READ.value, Scope.SUBMIT.value],
    )
    valid_days = forms.IntegerField(
        required=False, min_value=1, max_value=3650, initial=90, label="Valid for days",
        help_text="Empty: until it is revoked.",
    )  # fmt: skip

    def __init__(self, user: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._user = user
        self.fields["owner"].initial = user.get_username()
        self.fields["owner"].disabled = not user.is_superuser

    def clean_owner(self) -> Any:
        users = get_user_model()._default_manager  # noqa: SLF001  # the documented way
        name = {get_user_model().USERNAME_FIELD: self.cleaned_data["owner"]}
        owner = users.filter(is_active=True, **name).first()
        if owner is None:
            raise forms.ValidationError("There is no active user of this name.")
        return owner

    def issue(self) -> str:
        """Create the key and return its secret; nobody can show it a second time."""
        data = self.cleaned_data
        days = data["valid_days"]
        return keys.issue(
            data["owner"].pk,
            data["name"],
            [Scope(scope) for scope in data["scopes"]],
            valid_for=timedelta(days=days) if days else None,
        )


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    """Keys are issued and revoked. They are never edited, and never deleted: they are history."""

    list_display = ("name", "hint_text", "owner", "scope_list", "key_state", "created", "expires")
    list_select_related = ("owner",)
    list_filter = ()
    search_fields = ("name",)
    ordering = ("-created_at",)
    actions = ("revoke_selected",)
    fields = readonly_fields = (
        "name", "hint_text", "owner", "scope_list", "key_state", "created_at", "expires_at",
        "revoked_at",
    )  # fmt: skip

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("jobs.add_apikey"))

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Whether this user may revoke keys."""
        return bool(request.user.has_perm("jobs.change_apikey"))

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Issues a key and shows its secret in the answer itself: it is stored nowhere, not even
        in the session, so leaving the page loses it for good."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = KeyForm(request.user, request.POST or None, label_suffix="")
        if request.method != "POST" or not form.is_valid():
            return self.page(request, "key_new.html", "New API key", form=form)
        secret = form.issue()
        answer = self.page(
            request, "key_issued.html", "API key issued", secret=secret, key=form.cleaned_data
        )
        answer["Cache-Control"] = "no-store"
        return answer

    @admin.action(description="Revoke selected keys", permissions=["revoke"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        ids: list[UUID] = list(queryset.values_list("pk", flat=True)[:1000])
        count = keys.revoke(ids)
        text = "1 key revoked" if count == 1 else f"{count} keys revoked"
        kept = len(ids) - count
        if kept:
            text += f", {kept} had been revoked before"
        self.message_user(request, f"{text}.", messages.SUCCESS if count else messages.WARNING)

    @admin.display(description="Key")
    def hint_text(self, key: ApiKey) -> str:
        return f"{key.hint}…"

    @admin.display(description="Scopes")
    def scope_list(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    @admin.display(description="State")
    def key_state(self, key: ApiKey) -> SafeString:
        if key.revoked_at:
            return display.badge("revoked", "bad")
        if key.expires_at and key.expires_at <= timezone.now():
            return display.badge("expired", "idle")
        return display.badge("valid", "good")

    @admin.display(description="Created")
    def created(self, key: ApiKey) -> SafeString | str:
        return display.ago(key.created_at)

    @admin.display(description="Expires")
    def expires(self, key: ApiKey) -> SafeString | str:
        return display.ago(key.expires_at)


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    """Processes of the platform, by their last sign of life."""

    list_display = (
        "name", "presence", "kind", "queue_list", "hostname", "pid", "release", "started", "seen",
    )  # fmt: skip
    ordering = ("-seen_at",)
    fields = readonly_fields = (
        "name", "presence", "kind", "queue_list", "hostname", "pid", "release", "started_at",
        "seen_at", "stopped_at",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Worker]:
        silence = ExpressionWrapper(Now() - F("seen_at"), output_field=DurationField())
        return Worker.objects.annotate(silence=silence)

    @admin.display(description="Presence")
    def presence(self, worker: Worker) -> SafeString:
        if worker.stopped_at:
            return display.badge("stopped", "idle")
        silence: timedelta = getattr(worker, "silence", timedelta(0))
        if silence > timedelta(seconds=conf.get().worker_stale_seconds):
            return display.badge("stale", "bad")
        return display.badge("live", "good")

    @admin.display(description="Queues")
    def queue_list(self, worker: Worker) -> str:
        return ", ".join(worker.queues) or "–"

    @admin.display(description="Started")
    def started(self, worker: Worker) -> SafeString | str:
        return display.ago(worker.started_at)

    @admin.display(description="Last seen")
    def seen(self, worker: Worker) -> SafeString | str:
        return display.ago(worker.seen_at)
