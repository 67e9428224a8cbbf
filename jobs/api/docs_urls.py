"""The OpenAPI document and its page; a project mounts them where it likes."""

from __future__ import annotations

from django.urls import path

from jobs.api.views.docs import DocsView, SchemaView

urlpatterns = [
    path("schema/", SchemaView.as_view(), name="schema"),
    path("docs/", DocsView.as_view(url_name="schema"), name="docs"),
]
