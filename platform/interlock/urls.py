"""Where everything lives."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from interlock.login import throttled

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
    path("health/", include("jobs.api.health_urls")),
    path("api/v1/", include("jobs.api.urls")),
    path("api/", include("jobs.api.docs_urls")),
    # In front of the admin's own, under the same address.
    path("admin/login/", throttled(admin.site.login)),
    path("admin/", admin.site.urls),
]

handler400 = "jobs.api.problems.bad_request"
handler403 = "jobs.api.problems.permission_denied"
handler404 = "jobs.api.problems.not_found"
handler500 = "jobs.api.problems.server_error"
