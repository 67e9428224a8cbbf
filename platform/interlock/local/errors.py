"""Failures that a person in front of a terminal can act on.

LocalError
 +-- PortTaken        a port somebody asked for is in use
 +-- HomeBusy         another platform runs on the same private directory
 +-- ServerFailed     a private server did not come up, or stopped while it came up
 +-- ServerMissing    no binaries for a server were found
 +-- ApiError         the API refused a request or could not be reached
"""

from __future__ import annotations


class LocalError(Exception):
    """Printed as its message alone: a traceback would hide the one line that helps."""


class PortTaken(LocalError):
    """Names the port and the setting that moves it."""

    def __init__(self, what: str, port: int, setting: str) -> None:
        super().__init__(
            f"port {port} for {what} is taken by another process; choose another one with {setting}"
        )


class HomeBusy(LocalError):
    """Another live process holds the private directory."""


class ServerFailed(LocalError):
    """Carries the end of the server's log."""


class ServerMissing(LocalError):
    """Says which program was looked for."""


class ApiError(LocalError):
    """`status` is the HTTP status, or 0 when there was no answer at all."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
