"""Django's users and groups in unfold's dress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

if TYPE_CHECKING:
    Dress = object
    Users = UserAdmin[User]
else:
    from unfold.admin import ModelAdmin as Dress

    Users = UserAdmin

admin.site.index_title = "Dashboard"
admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class DressedUserAdmin(Users, Dress):
    """Users; their jobs keep them from being deleted."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display: Any = ("username", "email", "is_staff", "is_active", "last_login")


@admin.register(Group)
class DressedGroupAdmin(GroupAdmin, Dress):
    """Groups of permissions, like operators who may cancel and retry jobs."""
