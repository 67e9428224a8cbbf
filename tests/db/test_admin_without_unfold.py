"""The admin in a project that does not have unfold."""

from __future__ import annotations

import os
import subprocess
import sys

from django.db import connection

WITHOUT_UNFOLD = """
import sys
from interlock import settings as project
from django.conf import settings
keep = {name: getattr(project, name) for name in dir(project) if name.isupper()}
keep["INSTALLED_APPS"] = [a for a in keep["INSTALLED_APPS"] if a not in ("interlock", "unfold")]
keep["ROOT_URLCONF"] = "__main__"
keep["DATABASES"]["default"]["NAME"] = sys.argv[1]
settings.configure(**keep)
import django
django.setup()
from django.contrib import admin
from django.contrib.auth.models import User
from django.core import checks
from django.test import RequestFactory
from django.urls import path
from jobs.admin.base import ModelAdmin
from jobs.models import ApiKey, Job, OutboxEntry, Upload, Worker
urlpatterns = [path("admin/", admin.site.urls)]
assert ModelAdmin is admin.ModelAdmin
assert "unfold" not in sys.modules
assert not checks.run_checks(app_configs=None, tags=["admin", "templates", "urls"])
request = RequestFactory().get("/admin/")
request.user = User(pk=1, username="root", is_staff=True, is_superuser=True)
request.session = {}
request._messages = []
for model in (Job, OutboxEntry, Upload, Worker, ApiKey):
    answer = admin.site.get_model_admin(model).changelist_view(request).render()
    assert answer.status_code == 200
jobs = admin.site.get_model_admin(Job)
for view in (jobs.submit_view, jobs.overview_view):
    assert b"<div class=\\"jobs\\">" in view(request).render().content
print("fine")
"""


def test_the_app_works_in_a_project_without_unfold(db: None) -> None:
    name = connection.settings_dict["NAME"]
    environment = {key: v for key, v in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_UNFOLD, name],
        capture_output=True, text=True, env=environment, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.endswith("fine\n"), done.stderr
