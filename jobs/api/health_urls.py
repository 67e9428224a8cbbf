"""Health checks for load balancers and supervisors; a project mounts them where it likes."""

from __future__ import annotations

from django.urls import path

from jobs.api import health

urlpatterns = [
    path("live", health.live, name="health-live"),
    path("ready", health.ready, name="health-ready"),
]
