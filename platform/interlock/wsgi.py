"""The WSGI application: the API and the admin."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "interlock.settings")

application = get_wsgi_application()
