"""The admin's look and its menu, for django-unfold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.urls import reverse_lazy


def _may(permission: str) -> Callable[[HttpRequest], bool]:
    def check(request: HttpRequest) -> bool:
        return bool(request.user.has_perm(permission))

    return check


def _item(title: str, icon: str, name: str, permission: str) -> dict[str, Any]:
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{name}"),
        "permission": _may(permission),
    }


_MENU: list[dict[str, Any]] = [
    {
        "title": "Jobs",
        "items": [
            {"title": "Dashboard", "icon": "monitoring", "link": reverse_lazy("admin:index")},
            {
                **_item("Jobs", "list_alt", "jobs_job_changelist", "jobs.view_job"),
                # The paths of other entries begin with this one's.
                "active": lambda request: (
                    "/jobs/job/" in request.path and not request.path.endswith("/submit/")
                ),
            },
            _item("Submit a job", "add_circle", "jobs_job_submit", "jobs.operate_job"),
        ],
    },
    {
        "title": "Platform",
        "separator": True,
        "items": [
            _item("Workers", "memory", "jobs_worker_changelist", "jobs.view_worker"),
            _item("Outbox", "outbox", "jobs_outboxentry_changelist", "jobs.view_outboxentry"),
            _item("Uploads", "upload_file", "jobs_upload_changelist", "jobs.view_upload"),
        ],
    },
    {
        "title": "Access",
        "separator": True,
        "items": [
            _item("API keys", "key", "jobs_apikey_changelist", "jobs.view_apikey"),
            _item("Users", "person", "auth_user_changelist", "auth.view_user"),
            _item("Groups", "group", "auth_group_changelist", "auth.view_group"),
            {"title": "API reference", "icon": "api", "link": "/api/docs/"},
        ],
    },
]

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Interlock",
    "SITE_HEADER": "Interlock",
    "SITE_SUBHEADER": "Jobs you can trust",
    "SITE_SYMBOL": "lock",
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "jobs.admin.overview.dashboard",
    "BORDER_RADIUS": "6px",
    "COLORS": {
        # Teal: the greens, ambers and reds are left to the states of jobs.
        "primary": {
            "50": "oklch(98.4% .014 180.72)",
            "100": "oklch(95.3% .051 180.801)",
            "200": "oklch(91% .096 180.426)",
            "300": "oklch(85.5% .138 181.071)",
            "400": "oklch(77.7% .152 181.912)",
            "500": "oklch(70.4% .14 182.503)",
            "600": "oklch(51.1% .096 186.391)",
            "700": "oklch(43.7% .078 188.216)",
            "800": "oklch(38.6% .063 188.416)",
            "900": "oklch(32.8% .052 190.1)",
            "950": "oklch(27.7% .046 192.524)",
        },
    },
    "SIDEBAR": {"show_search": False, "navigation": _MENU},
}
