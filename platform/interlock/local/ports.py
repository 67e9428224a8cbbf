"""Loopback ports: which are free, and which were promised to whom."""

from __future__ import annotations

import random
import socket

from interlock.local.errors import LocalError, PortTaken

LOOPBACK = "127.0.0.1"

# Below the range from which Linux (32768+) and macOS (49152+) take the local ports of outgoing
# connections: a server that is killed and restarted must find its port still free.
FIRST_PORT, LAST_PORT = 20_000, 32_000

_promised: set[int] = set()


def is_free(port: int) -> bool:
    """True when a server could listen on the loopback port right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port in TIME_WAIT after a restart is usable.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that nobody listens on and that this process has not handed out before."""
    for port in random.sample(range(FIRST_PORT, LAST_PORT), 500):
        if port not in _promised and is_free(port):
            _promised.add(port)
            return port
    raise LocalError(f"found no free port between {FIRST_PORT} and {LAST_PORT}")


def require_free(what: str, port: int, setting: str) -> None:
    """Raises PortTaken, naming `setting`, unless the port can be used."""
    if not is_free(port):
        raise PortTaken(what, port, setting)


def parse_port(text: str, setting: str) -> int:
    """A port number from a flag or an environment variable.

    Raises LocalError naming `setting` for anything but 1..65535.
    """
    try:
        port = int(text)
    except ValueError:
        port = 0
    if not 1 <= port <= 65535:
        raise LocalError(f"{setting} must be a port number between 1 and 65535, not {text!r}")
    return port
