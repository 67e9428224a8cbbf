"""The operating-system account that PostgreSQL runs as when we are root, and what it may reach."""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from interlock.local.errors import LocalError

# PostgreSQL refuses to run as root. `nobody` exists on every system, so no account is created.
UNPRIVILEGED = ("postgres", "_postgres", "nobody")

# Where root can always write and everybody can pass through; a predictable name below a
# world-writable /tmp could be taken by somebody else first.
SYSTEM_STATE = (Path("/var/lib"), Path("/var/db"))


@dataclass(frozen=True, slots=True)
class Account:
    """A user that a server runs as."""

    name: str
    uid: int
    gid: int


def server_account(existing: Path | None = None) -> Account | None:
    """Whom to run PostgreSQL as; None when we are not root and simply run it ourselves.

    A data directory made earlier keeps its owner, also when a better account has appeared since.
    """
    if os.geteuid() != 0:
        return None
    if existing is not None and existing.exists() and existing.stat().st_uid != 0:
        owner = existing.stat()
        return Account(_name_of(owner.st_uid), owner.st_uid, owner.st_gid)
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise LocalError(f"PostgreSQL cannot run as root and none of {UNPRIVILEGED} exists")


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def reachable(path: Path, account: Account) -> bool:
    """May the account pass through every directory above `path`?

    Reads permission bits only; access lists may grant more, in which case we merely copy or move
    something that need not have been moved.
    """
    resolved = path.resolve()
    return all(_may_pass(parent, account) for parent in resolved.parents)


def _may_pass(directory: Path, account: Account) -> bool:
    try:
        entry = directory.stat()
    except FileNotFoundError:
        return True  # created by us, with permissions that fit
    if entry.st_uid == account.uid:
        return bool(entry.st_mode & stat.S_IXUSR)
    if entry.st_gid == account.gid:
        return bool(entry.st_mode & stat.S_IXGRP)
    return bool(entry.st_mode & stat.S_IXOTH)


def reachable_directory(wanted: Path, account: Account | None) -> Path:
    """`wanted` itself, or a fixed place outside for a checkout in a directory only root can enter.

    The place is derived from the wanted path, so the next start finds the same data again.
    """
    if account is None or reachable(wanted, account):
        return wanted
    for base in SYSTEM_STATE:
        if base.is_dir() and reachable(base / "x", account):
            digest = hashlib.sha256(str(wanted.resolve()).encode()).hexdigest()[:12]
            return base / f"interlock-local-{digest}"
    raise LocalError(
        f"the user {account.name}, whom PostgreSQL runs as, cannot reach {wanted}; "
        "set INTERLOCK_HOME to a directory that it can enter"
    )


def own_directory(path: Path, account: Account | None, mode: int) -> None:
    """Make a directory with exactly this mode (whatever the umask) and owner."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    if account is not None:
        os.chown(path, account.uid, account.gid)
