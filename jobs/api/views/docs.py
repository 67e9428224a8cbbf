"""The OpenAPI document, and a page to read and try it. All assets are served from here."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.http import HttpResponseBase
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework.request import Request

from jobs.api.auth import BrowserAuthentication, KeyAuthentication
from jobs.api.permissions import HasScope


class SchemaView(SpectacularAPIView):
    """The document itself, for key holders and logged-in browsers."""

    authentication_classes = [KeyAuthentication, BrowserAuthentication]
    permission_classes = [HasScope]


class DocsView(SpectacularSwaggerView):
    """The page. It sends strangers to the login instead of showing them an error."""

    authentication_classes = [BrowserAuthentication]
    permission_classes = []

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponseBase:
        user: Any = request.user
        if user is None or not user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        page: HttpResponseBase = super().get(request, *args, **kwargs)  # type: ignore[no-untyped-call] # untyped
        return page
