"""``jobs_bootstrap``: an account and an API key to begin with."""

from __future__ import annotations

import json
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from jobs import keys
from jobs.models import Scope


class Command(BaseCommand):
    help = "Create or update a user and print a new API key as JSON on stdout."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--username", required=True)
        parser.add_argument("--password", required=True)
        parser.add_argument("--staff", action="store_true", help="may use the admin site")
        parser.add_argument("--key-name", default="bootstrap")

    def handle(self, *args: Any, **options: Any) -> None:
        model = get_user_model()
        with transaction.atomic():
            user, _ = model.objects.get_or_create(**{model.USERNAME_FIELD: options["username"]})
            user.set_password(options["password"])
            if options["staff"]:
                user.is_staff = user.is_superuser = True
            user.save()
            secret = keys.issue(user.pk, options["key_name"], list(Scope))
        self.stdout.write(json.dumps({"username": options["username"], "api_key": secret}))
