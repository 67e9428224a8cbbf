"""The job list: pages by key instead of by number, and never a query that grows with the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from jobs import conf, registry
from jobs.admin.base import ChangeList
from jobs.models import IdempotencyKey, Job
from jobs.states import JobState

BEFORE, AFTER = "before", "after"

#: Jobs that one page looks at when its filter has no index. "Older" goes on from there, so every
#: job can be reached, and no click reads more than this.
WINDOW = 100_000

#: Up to so many waiting jobs are listed by their own index instead.
SMALL_BACKLOG = 2000


class KeysetChangeList(ChangeList):
    """A change list ordered by falling primary key, whose pages begin at a key.

    ``?before=KEY`` and ``?after=KEY`` stand for page numbers: no count, no OFFSET, and rows that
    arrive meanwhile shift nothing.
    """

    older: str | None = None
    newer: str | None = None
    #: The end of what was looked at, if the filter reached it before the page was full.
    looked_to: Any = None

    def get_filters_params(self, params: dict[str, Any] | None = None) -> dict[str, Any]:
        found = super().get_filters_params(params)
        return {key: value for key, value in found.items() if key not in (BEFORE, AFTER)}

    def get_query_string(self, new_params: Any = None, remove: Iterable[str] | None = None) -> str:
        """Links to another filter start at the first page; only Older and Newer carry a key."""
        return super().get_query_string(new_params, [*(remove or ()), BEFORE, AFTER])

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return ["-pk"]

    def get_results(self, request: HttpRequest) -> None:
        before, after = self._key(BEFORE), self._key(AFTER)
        upward = after is not None
        edge = self.edge(before, after)
        rows = self.queryset.order_by("pk" if upward else "-pk")
        if before is not None:
            rows = rows.filter(pk__lt=before)
        if after is not None:
            rows = rows.filter(pk__gt=after)
        if edge is not None:
            rows = rows.filter(pk__lte=edge) if upward else rows.filter(pk__gte=edge)
        found = list(rows[: self.list_per_page + 1])
        more, found = len(found) > self.list_per_page, found[: self.list_per_page]
        shown = found[::-1] if upward else found
        self._link(shown, upward=upward, more=more, edge=edge, first=before is None)
        self._show(shown)

    def edge(self, before: Any, after: Any) -> Any:
        """The last key that this page may look at, or None to look until it is full."""
        return None

    def _link(self, shown: list[Any], *, upward: bool, more: bool, edge: Any, first: bool) -> None:
        onward = (shown[0] if upward else shown[-1]).pk if more and shown else edge
        back = (shown[-1] if upward else shown[0]).pk if shown else None
        older, newer = (back, onward) if upward else (onward, None if first else back)
        if not upward and not first and back is None:
            newer = self._key(BEFORE)
        self.older = self._page(BEFORE, older)
        self.newer = self._page(AFTER, newer)
        self.looked_to = None if more else edge

    def _page(self, name: str, key: Any) -> str | None:
        if key is None:
            return None
        return self.get_query_string({name: str(key)})

    def _show(self, shown: list[Any]) -> None:
        self.result_list = shown
        self.result_count = len(shown)
        self.full_result_count = len(shown)
        self.show_full_result_count = False
        self.show_admin_actions = True
        self.can_show_all = self.multi_page = False
        self.paginator = Paginator(shown, self.list_per_page)

    def _key(self, name: str) -> Any:
        value = self.params.get(name)
        if not value:
            return None
        try:
            return self.lookup_opts.pk.to_python(value)
        except ValidationError as error:
            raise IncorrectLookupParameters(str(error)) from error


class JobChangeList(KeysetChangeList):
    """The list of jobs: like the above, with a bounded look where a filter has no index."""

    window: ClassVar[int] = WINDOW

    def edge(self, before: Any, after: Any) -> Any:
        if not any(self.params.get(name) for name in ("state", "handler", "queue")):
            return None
        if self.params.get("state") == JobState.RUNNING:  # a partial index holds just these
            return None
        rows = _in_range(Job.objects.all(), *submitted_bounds(self.params))
        if self.query:
            bounds = _id_range(self.query)
            if bounds is None:  # an idempotency key has found its few jobs already
                return None
            rows = rows.filter(pk__range=bounds)
        if self._is_small_backlog():
            return None
        owner = self.params.get("owner", "")
        if owner.isdecimal():
            rows = rows.filter(owner_id=owner)
        if after is not None:
            rows = rows.filter(pk__gt=after).order_by("pk")
        else:
            rows = (rows.filter(pk__lt=before) if before else rows).order_by("-pk")
        return rows.values_list("pk", flat=True)[self.window : self.window + 1].first()

    def _is_small_backlog(self) -> bool:
        """A few PENDING jobs are found whole by their partial index, however old they are."""
        if self.params.get("state") != JobState.PENDING:
            return False
        waiting = Job.objects.filter(state=JobState.PENDING).values_list("pk", flat=True)
        ids = list(waiting[: SMALL_BACKLOG + 1])
        if len(ids) > SMALL_BACKLOG:
            return False
        self.queryset = self.queryset.filter(pk__in=ids)
        return True


def id_at(moment: datetime) -> UUID:
    """The smallest UUIDv7 of that millisecond: a range of ids is a range of time (RFC 9562)."""
    return UUID(int=max(round(moment.timestamp() * 1000), 0) << 80)


def search(rows: QuerySet[Job], text: str) -> QuerySet[Job]:
    """Jobs whose id is or begins with ``text``, or that answer to exactly this idempotency key."""
    text = text.strip()
    if "\x00" in text:
        return rows.none()
    keyed = list(Job.objects.filter(idempotency_key=text).values_list("pk", flat=True)[:1000])
    elsewhere = IdempotencyKey.objects.filter(key=text, answered_by__isnull=False)
    keyed += elsewhere.values_list("answered_by", flat=True)[:1000]
    bounds = _id_range(text)
    if bounds is None:
        return rows.filter(pk__in=keyed)
    inside = Q(pk__gte=bounds[0], pk__lte=bounds[1])
    return rows.filter(inside | Q(pk__in=keyed) if keyed else inside)


def _id_range(text: str) -> tuple[UUID, UUID] | None:
    digits = text.replace("-", "").lower()
    if not 4 <= len(digits) <= 32 or not set(digits) <= set("0123456789abcdef"):
        return None
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))


def submitted_bounds(params: Any) -> tuple[datetime | None, datetime | None]:
    """From and to of the submitted filter; what cannot be read as a time bounds nothing."""
    preset = SubmittedFilter.PRESETS.get(params.get("submitted", ""))
    if preset is not None:
        return timezone.now() - preset[1], None
    return _time(params.get("submitted_from")), _time(params.get("submitted_to"))


def _time(text: str | None) -> datetime | None:
    try:
        moment = parse_datetime(text) if text else None
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment


def _in_range(rows: QuerySet[Job], start: datetime | None, end: datetime | None) -> QuerySet[Job]:
    if start is not None:
        rows = rows.filter(pk__gte=id_at(start))
    return rows if end is None else rows.filter(pk__lt=id_at(end))


class _Exactly(admin.SimpleListFilter):
    """One column, one value; the choices come from code and settings, never from the table."""

    column: ClassVar[str]

    def choices_of(self) -> list[tuple[str, str]]:
        raise NotImplementedError

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        known = self.choices_of()
        asked = request.GET.get(str(self.parameter_name), "")
        if asked and asked not in dict(known):
            known = [*known, (asked, asked)]
        return known

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        return queryset.none() if "\x00" in value else queryset.filter(**{self.column: value})


class StateFilter(_Exactly):
    title = "state"
    parameter_name = column = "state"

    def choices_of(self) -> list[tuple[str, str]]:
        return [(state.value, state.value.capitalize()) for state in JobState]


class HandlerFilter(_Exactly):
    title = "handler"
    parameter_name = column = "handler"

    def choices_of(self) -> list[tuple[str, str]]:
        return [(name, name) for name in registry.names()]


class QueueFilter(_Exactly):
    title = "queue"
    parameter_name = column = "queue"

    def choices_of(self) -> list[tuple[str, str]]:
        return [(name, name) for name in conf.get().queues]

    def has_output(self) -> bool:
        return True


class OwnerFilter(_Exactly):
    """Offers one's own jobs; any other owner is reached from a job's page."""

    title = "owner"
    parameter_name = "owner"
    column = "owner_id"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        mine = str(request.user.pk)
        asked = request.GET.get("owner", mine)
        return [(mine, "Mine")] + ([(asked, f"User {asked}")] if asked != mine else [])

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        return queryset.filter(owner_id=value) if value.isdecimal() else queryset.none()


class SubmittedFilter(admin.ListFilter):
    """A range of time, turned into a range of ids, because ids are time-ordered and indexed."""

    title = "submitted"
    #: Unfold 0.110 tells filters apart by this name and fails on one that has none.
    parameter_name = "submitted"
    template = "jobs/admin/filter_submitted.html"
    NAMES: ClassVar[tuple[str, ...]] = ("submitted", "submitted_from", "submitted_to")
    PRESETS: ClassVar[dict[str, tuple[str, timedelta]]] = {
        "10m": ("Past 10 minutes", timedelta(minutes=10)),
        "1h": ("Past hour", timedelta(hours=1)),
        "24h": ("Past 24 hours", timedelta(hours=24)),
        "7d": ("Past 7 days", timedelta(days=7)),
    }

    def __init__(
        self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any
    ) -> None:
        super().__init__(request, params, model, model_admin)
        self.values: dict[str, str] = {}
        for name in self.NAMES:
            value = params.pop(name, None)
            if value:
                self.values[name] = value[-1]
        self.used_parameters.update(self.values)

    def has_output(self) -> bool:
        return True

    def expected_parameters(self) -> list[str | None]:
        return list(self.NAMES)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return _in_range(queryset, *submitted_bounds(self.values))

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        drop = list(self.NAMES)
        yield {
            "selected": not self.values,
            "query_string": changelist.get_query_string({}, drop),
            "display": "Any time",
        }
        for value, (label, _) in self.PRESETS.items():
            yield {
                "selected": self.values.get("submitted") == value,
                "query_string": changelist.get_query_string({"submitted": value}, drop),
                "display": label,
            }

    def kept(self) -> Iterator[tuple[str, str]]:
        """The other parameters, which the form for a free range sends along."""
        for name, value in self.request.GET.items():
            if name not in {*self.NAMES, BEFORE, AFTER}:
                yield name, str(value)
