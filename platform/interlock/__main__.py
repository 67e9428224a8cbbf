"""``python -m interlock COMMAND``: Django's command line with this project's settings."""

from __future__ import annotations

import os

from django.core.management import execute_from_command_line


def main() -> None:
    """Run a management command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "interlock.settings")
    execute_from_command_line()


if __name__ == "__main__":
    main()
