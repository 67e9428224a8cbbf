"""What a caller may do: the scopes of its key. Whose jobs it may touch is decided by each query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from jobs.keys import Principal
from jobs.models import Scope


class HasScope(BasePermission):
    """A key needs the scope that the view names for the method; a browser session has them all."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        user: Any = request.user
        if user is None or not user.is_authenticated:
            return False
        if not isinstance(request.auth, Principal):
            return True
        scopes: Mapping[str, Scope] = getattr(view, "scopes", {})
        wanted = scopes.get("GET" if request.method == "HEAD" else str(request.method))
        if wanted is not None and wanted not in request.auth.scopes:
            raise PermissionDenied(f"The API key lacks the scope {wanted}.", code="missing_scope")
        return True
