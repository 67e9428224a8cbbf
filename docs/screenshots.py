"""Takes the pictures of README.md from a running ``./dev demo``.

    python docs/screenshots.py http://127.0.0.1:8000 demo PASSWORD

Needs Chromium, like the browser tests (``INTERLOCK_CHROMIUM`` names one).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).resolve().parent / "images"


def main(base: str, username: str, password: str) -> None:
    """Log in and take each picture, in a window of 1280 by 800 pixels."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("INTERLOCK_CHROMIUM", "/usr/bin/chromium"),
            args=["--no-sandbox"] if os.geteuid() == 0 else [],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"{base}/admin/")
        page.fill("input[name=username]", username)
        page.fill("input[name=password]", password)
        page.click("button[type=submit]")
        take(page, f"{base}/admin/", "dashboard")
        take(page, f"{base}/admin/jobs/job/", "jobs")
        page.click("table a[href*='/change/']")
        page.wait_for_load_state("networkidle")
        page.screenshot(path=IMAGES / "job.png")
        take(page, f"{base}/api/docs/", "api")
        browser.close()


def take(page: Page, url: str, name: str) -> None:
    """Open a page, wait until it is still, and keep its picture."""
    page.goto(url)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main(*sys.argv[1:4])
