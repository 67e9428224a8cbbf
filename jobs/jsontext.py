"""JSON text that PostgreSQL's ``jsonb`` takes, or a clear ValueError."""

from __future__ import annotations

import json
from typing import Any


def dumps(value: Any) -> str:
    """``value`` as JSON. Raises ValueError for NaN, NUL, lone surrogates or too deep nesting."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if "\\u" in text:
        _refuse_unstorable(value)
    return text


def _refuse_unstorable(value: Any) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise ValueError("text must not contain the NUL character")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("text must be valid Unicode without lone surrogates") from error
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_unstorable(key)
            _refuse_unstorable(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_unstorable(item)
