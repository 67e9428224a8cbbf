"""Jobs in the admin: a list that is fast at any size, a page that tells the whole story.

Nothing here writes a row. Cancel, retry and submit go through ``lifecycle`` with the admin as
actor, by POST only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db.models import DurationField, ExpressionWrapper, F, QuerySet
from django.db.models.functions import Coalesce, Now
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from jobs import display
from jobs.admin import listing, operations, overview, page, raw
from jobs.admin.base import ReadOnlyAdmin
from jobs.admin.submit import SubmitForm, helps
from jobs.models import Job
from jobs.states import ACTIVE, ActorKind, JobEvent, JobState, sources_of
from jobs.values import Actor

_LIST_FIELDS = (
    "id", "handler", "queue", "state", "attempt", "max_attempts", "progress",
    "cancel_requested_at", "due_at", "submitted_at", "started_at", "finished_at", "owner",
)  # fmt: skip


class ReasonForm(forms.Form):
    """Why a human interferes; kept in the audit for ever."""

    reason = forms.CharField(
        max_length=500,
        widget=forms.TextInput(attrs={"autofocus": True, "autocomplete": "off"}),
        help_text="Kept in the audit entry of every job.",
    )


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """The job list and the job page."""

    change_list_template = "jobs/admin/job_list.html"
    list_display = (
        "short_id", "state_badge", "handler", "queue", "attempts", "progress_bar", "owner_name",
        "submitted", "duration",
    )  # fmt: skip
    list_display_links = ("short_id",)
    list_filter = (
        listing.StateFilter,
        listing.HandlerFilter,
        listing.QueueFilter,
        listing.OwnerFilter,
        listing.SubmittedFilter,
    )
    search_fields = ("id",)
    search_help_text = "Id, first digits of an id, or idempotency key"
    actions = ("cancel_selected", "retry_selected")
    lookups = frozenset({"state", "handler", "queue", "owner", *listing.SubmittedFilter.NAMES})

    # ------------------------------------------------------------------------------ permissions

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whether this user may cancel, retry and submit."""
        return bool(request.user.has_perm("jobs.operate_job"))

    def _require_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _require_operate(self, request: HttpRequest) -> None:
        self._require_view(request)
        if not self.has_operate_permission(request):
            raise PermissionDenied

    # ------------------------------------------------------------------------------------- list

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[Any]:
        return listing.JobChangeList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        name = get_user_model().USERNAME_FIELD
        elapsed = ExpressionWrapper(
            Coalesce(F("finished_at"), Now()) - F("started_at"), output_field=DurationField()
        )
        rows = Job.objects.select_related("owner").annotate(elapsed=elapsed)
        listed: QuerySet[Job] = rows.only(*_LIST_FIELDS, f"owner__{name}")
        return listed

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return (listing.search(queryset, search_term) if search_term else queryset), False

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        more = {
            "title": "Jobs",
            "may_operate": self.has_operate_permission(request),
            "window": f"{listing.WINDOW:,}",
        }
        return super().changelist_view(request, {**more, **(extra_context or {})})

    @admin.display(description="Job")
    def short_id(self, job: Job) -> SafeString:
        return format_html(
            '<span class="jobs-id" title="{}">{}</span>', job.pk, display.short_id(job.pk)
        )

    @admin.display(description="State")
    def state_badge(self, job: Job) -> SafeString:
        if job.state == JobState.RUNNING and job.cancel_requested_at:
            return display.badge("STOPPING", "wait")
        return display.state_badge(job.state)

    @admin.display(description="Attempt")
    def attempts(self, job: Job) -> str:
        return f"{job.attempt} / {max(job.max_attempts, job.attempt)}"

    @admin.display(description="Progress")
    def progress_bar(self, job: Job) -> SafeString | str:
        if job.state == JobState.PENDING or not job.attempt:
            return "–"
        return display.progress_bar(job.progress, display.TONES[JobState(job.state)])

    @admin.display(description="Owner")
    def owner_name(self, job: Job) -> str:
        return job.owner.get_username() if job.owner else "–"

    @admin.display(description="Submitted")
    def submitted(self, job: Job) -> SafeString | str:
        return display.ago(job.submitted_at)

    @admin.display(description="Duration")
    def duration(self, job: Job) -> SafeString | str:
        if job.state == JobState.PENDING:
            later = job.due_at > timezone.now()
            return format_html("starts {}", display.ago(job.due_at)) if later else "–"
        return display.span(getattr(job, "elapsed", None))

    # ---------------------------------------------------------------------------------- actions

    @admin.action(description="Cancel selected jobs…", permissions=["operate"])
    def cancel_selected(self, request: HttpRequest, queryset: QuerySet[Job]) -> Any:
        return self._ask_for(request, operations.VERBS["cancel"], queryset)

    @admin.action(description="Retry selected jobs…", permissions=["operate"])
    def retry_selected(self, request: HttpRequest, queryset: QuerySet[Job]) -> Any:
        return self._ask_for(request, operations.VERBS["retry"], queryset)

    def _ask_for(
        self, request: HttpRequest, verb: operations.Verb, queryset: QuerySet[Job]
    ) -> HttpResponse | None:
        ids = list(queryset.order_by().values_list("pk", flat=True)[: operations.MOST + 1])
        if len(ids) > operations.MOST:
            text = f"At most {operations.MOST} jobs can be changed at once."
            self.message_user(request, text, messages.ERROR)
            return None
        return self._ask(request, verb, ids, ReasonForm(label_suffix=""))

    def _ask(
        self, request: HttpRequest, verb: operations.Verb, ids: Sequence[UUID], form: ReasonForm
    ) -> HttpResponse:
        jobs = Job.objects.light().filter(pk__in=ids).order_by("-pk")
        planned = operations.plan(verb, jobs)
        return self.page(
            request, "confirm.html", verb.headline, verb=verb, form=form,
            possible=[one for one in planned if one.possible],
            impossible=[one for one in planned if not one.possible],
        )  # fmt: skip

    def operate_view(self, request: HttpRequest, verb: str) -> HttpResponse:
        """Asks for a reason, then applies the verb. POST only: a link can change nothing."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        self._require_operate(request)
        chosen = operations.VERBS.get(verb)
        ids = _ids(request.POST.getlist("ids"))
        if chosen is None or not ids:
            raise Http404
        given = request.POST if "confirmed" in request.POST else None
        form = ReasonForm(given, label_suffix="")
        if not form.is_valid():
            return self._ask(request, chosen, ids, form)
        actor = Actor(ActorKind.ADMIN, str(request.user.pk))
        report = operations.apply(chosen, ids, actor, form.cleaned_data["reason"])
        level = messages.SUCCESS if report.done else messages.WARNING
        self.message_user(request, operations.summary(report), level)
        if complaint := operations.complaints(report):
            self.message_user(request, complaint, messages.WARNING)
        if len(ids) == 1:
            return redirect("admin:jobs_job_change", ids[0])
        return redirect("admin:jobs_job_changelist")

    def submit_view(self, request: HttpRequest) -> HttpResponse:
        """The form that submits a job; the admin becomes its owner."""
        self._require_operate(request)
        given = request.GET.get("handler")
        form = SubmitForm(
            request.POST or None, initial={"handler": given} if given else None, label_suffix=""
        )
        if request.method == "POST" and form.is_valid():
            accepted = form.send(request.user.pk)
            if accepted is not None:
                words = "was submitted" if accepted.created else "had been submitted before"
                self.message_user(request, f"Job {accepted.job_id} {words}.")
                return redirect("admin:jobs_job_change", accepted.job_id)
        return self.page(request, "submit.html", "Submit a job", form=form, helps=helps())

    # ------------------------------------------------------------------------------------ pages

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The job's page. There is nothing to save on it, so it answers GET alone."""
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        self._require_view(request)
        job = page.read_job(_id(object_id))
        if job is None:
            raise Http404("There is no such job.")
        entries = page.history(job.pk)
        lines, more_lines = page.log_lines(job.pk)
        state = JobState(job.state)
        asked = job.cancel_requested_at is not None
        may = self.has_operate_permission(request)
        stoppable = (*sources_of(JobEvent.CANCEL), *sources_of(JobEvent.REQUEST_CANCEL))
        return self.page(
            request, "job.html", job.handler, job=job, original=job, facts=page.facts(job),
            badge=self.state_badge(job), tone=display.TONES[state], active=state in ACTIVE,
            documents=page.documents(job.pk), artifacts=page.artifacts(job.pk),
            lines=lines, more_lines=more_lines, line_limit=page.LOG_LINES,
            steps=page.steps(entries)[::-1], runs=page.runs(entries)[::-1],
            audit_limit=page.AUDIT_ENTRIES if len(entries) >= page.AUDIT_ENTRIES else 0,
            may_cancel=may and state in stoppable and not (asked and state is JobState.RUNNING),
            may_retry=may and state in sources_of(JobEvent.REOPEN),
        )  # fmt: skip

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        """The audit on the job's page is the history; there is no other."""
        return redirect("admin:jobs_job_change", _id(object_id))

    def overview_view(self, request: HttpRequest) -> HttpResponse:
        """Queues, what runs and what failed."""
        self._require_view(request)
        return self.page(request, "overview.html", "Overview", overview=overview.context())

    def artifact_view(self, request: HttpRequest, job_id: UUID, name: str) -> HttpResponse:
        """One artifact of a job, as a harmless answer."""
        self._require_view(request)
        return raw.artifact(job_id, name)

    def raw_view(self, request: HttpRequest, job_id: UUID, what: str) -> HttpResponse:
        """A whole document of a job, or its whole log, as text."""
        self._require_view(request)
        return raw.text(job_id, what)

    def get_urls(self) -> list[URLPattern]:
        def guarded(view: Callable[..., Any]) -> Callable[..., Any]:
            return self.admin_site.admin_view(view)

        own = [
            path("submit/", guarded(self.submit_view), name="jobs_job_submit"),
            path("overview/", guarded(self.overview_view), name="jobs_job_overview"),
            path("operate/<slug:verb>/", guarded(self.operate_view), name="jobs_job_operate"),
            path(
                "<uuid:job_id>/artifacts/<str:name>",
                guarded(self.artifact_view),
                name="jobs_job_artifact",
            ),
            path("<uuid:job_id>/raw/<slug:what>/", guarded(self.raw_view), name="jobs_job_raw"),
        ]
        return [*own, *super().get_urls()]


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise Http404("There is no such job.") from error


def _ids(texts: Sequence[str]) -> list[UUID]:
    return [_id(text) for text in dict.fromkeys(texts[: operations.MOST])]
