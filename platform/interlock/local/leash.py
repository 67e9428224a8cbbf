"""Run one command that cannot outlive the process that started it.

    python -I -S leash.py PARENT_PID SIGNAL UID:GID|- -- COMMAND ARG...

A file of its own, run by a bare interpreter and replaced by the command: the alternative, code
between fork and exec inside the parent (`preexec_fn`), may deadlock in a parent with threads.
It imports nothing of the project, because it also runs before dropping root's rights.

Linux only tells a process about its parent's death. Elsewhere the command simply runs, and
`processes.sweep` at the next start ends what a killed parent left behind.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Everything is imported above: after the change of user the interpreter's own files may be out
# of reach.
PR_SET_PDEATHSIG = 1


def _drop_rights(owner: str) -> None:
    uid, gid = (int(part) for part in owner.split(":"))
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)
    os.environ.pop("HOME", None)


def _tie_to_parent(parent: int, death_signal: int) -> None:
    if not sys.platform.startswith("linux") or death_signal == 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before the call above; nothing would tell this process then.
    if os.getppid() != parent:
        raise SystemExit("the parent is gone")


def main(argv: list[str]) -> None:
    parent, death_signal, owner, separator, *command = argv
    if separator != "--" or not command:
        raise SystemExit(__doc__)
    if owner != "-":
        _drop_rights(owner)
    # After the change of user: the kernel forgets the death signal when credentials change.
    _tie_to_parent(int(parent), int(death_signal))
    try:
        os.execvp(command[0], command)  # noqa: S606 - replacing ourselves is the purpose
    except OSError as error:
        raise SystemExit(f"cannot run {command[0]}: {error.strerror}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
