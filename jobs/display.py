"""Small pieces of HTML and plain words for people who read jobs in a browser.

Outside of ``jobs.admin``, because template tags are loaded before an admin module may be.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString

from jobs.states import JobState

TONES = {
    JobState.PENDING: "wait",
    JobState.RUNNING: "busy",
    JobState.COMPLETED: "good",
    JobState.FAILED: "bad",
    JobState.CANCELLED: "idle",
}

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def badge(text: str, tone: str) -> SafeString:
    """A coloured label; ``tone`` is wait, busy, good, bad or idle."""
    return format_html('<span class="jobs-badge jobs-{}">{}</span>', tone, text)


def state_badge(state: str) -> SafeString:
    """The label of a job's state."""
    return badge(state, TONES[JobState(state)])


def span(length: timedelta | None) -> str:
    """A length of time in at most two units: ``0.25 s``, ``3 min 20 s``, ``2 d 4 h``."""
    if length is None:
        return "–"
    seconds = max(length.total_seconds(), 0.0)
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    for index, (unit, word) in enumerate(_UNITS):
        if whole >= unit:
            small, small_word = _UNITS[index + 1] if index < 2 else (1, "s")
            rest = whole % unit // small
            return f"{whole // unit} {word}" + (f" {rest} {small_word}" if rest else "")
    return f"{whole} s"


def ago(when: datetime | None) -> SafeString | str:
    """How long ago, or how far ahead, with the full UTC time on hovering."""
    if when is None:
        return "–"
    passed = timezone.now() - when
    text = f"in {span(-passed)}" if passed < timedelta(0) else f"{span(passed)} ago"
    return format_html(
        '<time datetime="{}" title="{} UTC">{}</time>', when.isoformat(), full(when), text
    )


def full(when: datetime) -> str:
    """Date and time to the millisecond, as the database wrote it (UTC)."""
    return f"{date_format(when, 'Y-m-d H:i:s')}.{when.microsecond // 1000:03d}"


def size(count: int) -> str:
    """Bytes in words."""
    amount = float(count)
    for unit in ("B", "KB", "MB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GB"


def short_id(job_id: UUID) -> str:
    """Both ends of an id: the front is the time of birth, only the back tells neighbours apart."""
    text = str(job_id)
    return f"{text[:8]}…{text[-6:]}"


def job_link(job_id: UUID) -> SafeString:
    """A link to a job's page."""
    return format_html(
        '<a class="jobs-id" href="{}" title="{}">{}</a>',
        reverse("admin:jobs_job_change", args=[job_id]), job_id, short_id(job_id),
    )  # fmt: skip


def progress_bar(fraction: float, tone: str) -> SafeString:
    """A bar, ``fraction`` of 1 full."""
    percent = round(min(max(fraction, 0.0), 1.0) * 100)
    return format_html(
        '<span class="jobs-bar jobs-{0}" role="progressbar" aria-valuenow="{1}" aria-valuemin="0"'
        ' aria-valuemax="100"><i style="width:{1}%"></i></span>'
        '<span class="jobs-percent">{1} %</span>',
        tone, percent,
    )  # fmt: skip
