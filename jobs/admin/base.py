"""What every admin page of this app shares: the look, and that rows are never edited here.

The pages are made for django-unfold and use it where the project has it installed; in any other
project the same pages appear in Django's own admin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.apps import apps
from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.functional import cached_property

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList

    AnyPaginator = Paginator[Any]
    ModelAdmin = admin.ModelAdmin[Any]
elif apps.is_installed("unfold"):
    from unfold.admin import ModelAdmin
    from unfold.views import ChangeList
else:
    from django.contrib.admin import ModelAdmin
    from django.contrib.admin.views.main import ChangeList

if not TYPE_CHECKING:
    AnyPaginator = Paginator

__all__ = ["BoundedPaginator", "ChangeList", "ModelAdmin", "ReadOnlyAdmin"]

#: An answer that a browser shows as it is: no scripts, no guessing of types, no copies kept.
INERT_HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-store",
}


class BoundedPaginator(AnyPaginator):
    """Counts no further than ``most`` rows, so a page costs the same whatever the table's size."""

    most: ClassVar[int] = 5000

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        assert isinstance(rows, QuerySet)
        return rows.order_by().values("pk")[: self.most].count()


class BoundedChangeList(ChangeList):
    """A numbered list that does not invite to "show all": its count is bounded, not total."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.full_result_count = self.result_count


class ReadOnlyAdmin(ModelAdmin):
    """Rows can be looked at. Adding, changing and deleting is nobody's right, not even a root's."""

    actions_on_bottom = False
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    sortable_by: ClassVar[Any] = ()
    paginator = BoundedPaginator
    list_fullwidth = True
    #: The only query parameters that may filter; any other lookup could scan a large table.
    lookups: ClassVar[frozenset[str]] = frozenset()

    class Media:
        css: ClassVar[dict[str, tuple[str, ...]]] = {"all": ("jobs/admin.css",)}
        js = ("jobs/admin.js",)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[Any]:
        return BoundedChangeList

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        return lookup in self.lookups

    def page(self, request: HttpRequest, template: str, title: str, **context: Any) -> HttpResponse:
        """One of our own pages inside the admin's frame."""
        request.current_app = self.admin_site.name
        shared = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "title": title,
        }
        return TemplateResponse(request, f"jobs/admin/{template}", {**shared, **context})
