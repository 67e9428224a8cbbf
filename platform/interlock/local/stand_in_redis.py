"""fakeredis' TCP server as a process: Redis in Python, for machines without any Redis binary.

    python -P stand_in_redis.py HOST PORT

Run as a file, so that it needs nothing of the project; slow, but it speaks the protocol.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def main(host: str, port: str) -> None:
    # Imported by name: the package is installed only where no Redis binary is.
    fakeredis: Any = importlib.import_module("fakeredis")
    fakeredis.TcpFakeServer((host, int(port)), server_type="redis").serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
