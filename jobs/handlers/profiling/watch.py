"""The few things a profile needs from whoever runs it."""

from __future__ import annotations

from typing import Literal, Protocol

LogLevel = Literal["debug", "info", "warning", "error"]


class ProfileWatch(Protocol):
    """Told how far the work is; may stop it by raising from any of its methods."""

    def progress(self, fraction: float, message: str = "") -> None:
        """``fraction`` runs from 0 to 1 and never backwards."""

    def log(self, message: str, level: LogLevel = "info") -> None:
        """One line for the people who read the job's log."""

    def check(self) -> None:
        """Called at least every ``engine.POLL_SECONDS`` while a query runs."""
