"""A private directory with one living owner: state that is kept, and a lock on it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interlock.local.accounts import own_directory
from interlock.local.errors import HomeBusy, LocalError
from interlock.local.ports import free_port, is_free


class Home:
    """Holds the directory's lock from `acquire` until `release` or the end of the process.

    The kernel drops the lock with the process, also after `kill -9`: whoever gets it may end
    whatever was left behind.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._lock: int | None = None

    def acquire(self) -> None:
        """Make the directory if needed and lock it.

        Raises HomeBusy when another process holds it, LocalError when it is not ours to write.
        """
        if self.root.exists() and not os.access(self.root, os.W_OK | os.X_OK):
            raise LocalError(
                f"{self.root} belongs to another user; choose a directory with INTERLOCK_HOME"
            )
        # Passable but not listable for others: PostgreSQL may run under another account below it.
        own_directory(self.root, None, 0o711)
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise HomeBusy(
                f"already running on {self.root} (pid {owner}); stop that one, or choose another "
                "directory with INTERLOCK_HOME and another port with INTERLOCK_PORT"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._lock = descriptor

    def release(self) -> None:
        """Give the lock up; the file stays, for removing it would let two owners in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def held(self) -> bool:
        return self._lock is not None

    def path(self, *parts: str) -> Path:
        return self.root.joinpath(*parts)

    def read(self, name: str) -> dict[str, Any]:
        """A JSON object kept in the directory; empty when absent or cut short by a crash."""
        try:
            content = json.loads(self.path(name).read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Replace a JSON object at once, readable by the owner only."""
        self.write_private(name, json.dumps(content, indent=2) + "\n")

    def write_private(self, name: str, text: str) -> None:
        """Replace a text file at once; mode 600 before the first byte is in it."""
        temporary = self.path(f"{name}.tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        temporary.replace(self.path(name))

    def secret(self, name: str, length: int = 48) -> str:
        """Random hexadecimal digits (safe in URLs and on command lines), kept since first made."""
        kept = self.read("secrets.json")
        if name not in kept:
            kept[name] = secrets.token_hex(length // 2)
            self.write("secrets.json", kept)
        return str(kept[name])

    def remembered_port(self, name: str) -> int:
        """The port of the last start while it is free, else a new one that is then kept.

        For ports nobody asked for by number; those are refused when taken instead.
        """
        kept = self.read("ports.json")
        port = kept.get(name)
        if not isinstance(port, int) or not is_free(port):
            port = free_port()
            self.write("ports.json", {**kept, name: port})
        return port
