"""One measurement in its own process: ``python -m bench.cell NAME FILE`` in its environment.

Writes ``{"figures": ...}`` to the file, or ``{"missing": reason}`` with exit code 0: that a peer
cannot run here is a finding too.
"""

from __future__ import annotations

import json
import sys
import traceback
from importlib import import_module
from pathlib import Path

from bench import scenario
from bench.catalogue import BY_NAME
from bench.peers.base import Peer
from bench.place import NotOffered, Place


def main() -> int:
    name, file = sys.argv[1:]
    place = Place.from_environment()
    answer: dict[str, object]
    try:
        answer = {"figures": _measured(BY_NAME[name].target, place)}
    except NotOffered as reason:
        answer = {"not_offered": str(reason)}
    except Exception as error:
        traceback.print_exc()
        answer = {"missing": f"{type(error).__name__}: {error}"}
    Path(file).write_text(json.dumps(answer))
    return 0


def _measured(target: str, place: Place) -> dict[str, float]:
    module, _, attribute = target.partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, type) and issubclass(found, Peer):
        return scenario.measure(found, place)
    figures: dict[str, float] = found(place)
    return figures


if __name__ == "__main__":
    sys.exit(main())
