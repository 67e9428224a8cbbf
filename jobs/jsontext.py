"""JSON text that PostgreSQL's ``jsonb`` takes, or a clear ValueError."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json

#: Deep enough for data, far below where Python's, pydantic's and PostgreSQL's recursions end.
DEPTH_LIMIT = 100

#: Kept: ``json.dumps`` makes one for each call that does not take its defaults.
_encode = json.JSONEncoder(allow_nan=False).encode


def dumps(value: Any) -> str:
    """``value`` as JSON. Raises ValueError for NaN, NUL, lone surrogates or too deep nesting."""
    try:
        text = _encode(value)
    except RecursionError as error:
        raise _too_deep() from error
    except TypeError as error:
        raise ValueError(f"not JSON: {error}") from error
    # The walk is slow beside the C encoder; only such texts can hide what it looks for.
    if "\\u" in text or text.count("[") + text.count("{") > DEPTH_LIMIT:
        _refuse_unstorable(value, DEPTH_LIMIT)
    return text


def loads(text: str) -> Any:
    """What ``json.loads`` makes of JSON that PostgreSQL wrote, in a third of the time."""
    try:
        return from_json(text)
    except ValueError:
        # It follows fewer levels than hands in SQL may have stored.
        return json.loads(text)


def _refuse_unstorable(value: Any, levels: int) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise ValueError("text must not contain the NUL character")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("text must be valid Unicode without lone surrogates") from error
    elif isinstance(value, dict | list | tuple):
        if levels == 0:
            raise _too_deep()
        for item in value:
            _refuse_unstorable(item, levels - 1)
        if isinstance(value, dict):
            for item in value.values():
                _refuse_unstorable(item, levels - 1)


def _too_deep() -> ValueError:
    return ValueError(f"not JSON that can be kept: it nests deeper than {DEPTH_LIMIT} levels")
