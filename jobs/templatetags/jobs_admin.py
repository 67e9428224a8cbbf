"""The admin's words for times, states and progress, as template filters."""

from __future__ import annotations

from django import template

from jobs import display

register = template.Library()

register.filter("ago", display.ago)
register.filter("full", display.full)
register.filter("span", display.span)
register.filter("progress", display.progress_bar)
register.filter("state_badge", display.state_badge)
register.filter("job_link", display.job_link)
