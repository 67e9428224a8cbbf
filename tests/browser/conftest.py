"""A real Chromium for the browser ring; without one the ring fails, it never skips."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, Page, sync_playwright
from pytest_django.live_server_helper import LiveServer

PASSWORD = "a long password"
HOW_TO = (
    "the browser tests need Chromium: install the package chromium (apt-get install chromium),"
    " or name an executable in INTERLOCK_CHROMIUM"
)


def chromium() -> str | None:
    """``INTERLOCK_CHROMIUM``, else the Debian package's, else whatever is on PATH."""
    given = os.environ.get("INTERLOCK_CHROMIUM")
    if given:
        return given if Path(given).is_file() else None
    usual = "/usr/bin/chromium"
    return usual if Path(usual).is_file() else shutil.which("chromium")


# Not for the session: while it lives, Playwright's loop runs in the thread of all other tests.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = chromium()
    if executable is None:
        pytest.fail(HOW_TO, pytrace=False)
    # Chromium refuses its sandbox to root, as whom containers run the tests.
    args = ["--no-sandbox"] if os.geteuid() == 0 else []
    # Playwright's loop runs in this thread; without this Django would refuse every query in it.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=args)
        yield opened
        opened.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture
def tab(browser: Browser, live_server: LiveServer) -> Iterator[Page]:
    """An empty tab on the live server; any script error or failed request fails the test."""
    context = browser.new_context(base_url=live_server.url, locale="en-US", timezone_id="UTC")
    context.set_default_timeout(15_000)
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(f"script error: {error}"))
    page.on("dialog", lambda dialog: troubles.append(f"a dialog opened: {dialog.message}"))
    page.on(
        "response",
        lambda answer: (
            troubles.append(f"{answer.status} {answer.url}")
            if answer.status >= 400 and not answer.url.endswith("/favicon.ico")
            else None
        ),
    )
    yield page
    context.close()
    assert troubles == []


@pytest.fixture
def admin_user(transactional_db: None) -> User:
    return User.objects.create_superuser("ada", password=PASSWORD)


@pytest.fixture
def admin_tab(tab: Page, admin_user: User) -> Page:
    """A tab in which the administrator has just logged in, through the form."""
    tab.goto("/admin/")
    tab.fill("[name=username]", admin_user.username)
    tab.fill("[name=password]", PASSWORD)
    tab.click("button[type=submit]")
    tab.wait_for_url("**/admin/")
    return tab
