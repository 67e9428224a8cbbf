"""JSON bodies as PostgreSQL and every other JSON reader would understand them, or a 400.

Stricter than Python's own: no duplicate keys (two readers would see two requests), no NaN, no depth
that breaks a later dump, no bytes that are not UTF-8.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import IO, Any

from django.utils.http import parse_header_parameters
from rest_framework.exceptions import ParseError, UnsupportedMediaType
from rest_framework.parsers import JSONParser, MultiPartParser

#: Nesting that is accepted. Python's own scanner gives up at about 1,000 levels.
MAX_DEPTH = 32


class BoundedJSONParser(JSONParser):
    """Parses an object or array of bounded depth.

    The size is bounded by ``DATA_UPLOAD_MAX_MEMORY_SIZE``, which DRF enforces for subclasses of its
    own JSON parser before this is called.
    """

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        _refuse_encodings(media_type, parser_context)
        try:
            text = stream.read().decode("utf-8")
            data = json.loads(
                text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite
            )
        except UnicodeDecodeError as error:
            raise ParseError("The body is not UTF-8.", code="not_utf8") from error
        except RecursionError as error:
            raise _too_deep() from error
        except ValueError as error:
            raise ParseError(f"The body is not acceptable JSON: {error}", "not_json") from error
        _refuse_depth(data)
        return data


class UploadParser(MultiPartParser):
    """Multipart forms, uncompressed; files go to disk, never to memory."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        _refuse_encodings(None, parser_context)
        return super().parse(stream, media_type, parser_context)


def _refuse_encodings(media_type: str | None, context: Mapping[str, Any] | None) -> None:
    request = (context or {}).get("request")
    coding = request.META.get("HTTP_CONTENT_ENCODING", "identity") if request else "identity"
    if coding.lower() != "identity":
        text = f"Content-Encoding {coding!r} is not accepted."
        raise UnsupportedMediaType(media_type or "", text)
    parameters = parse_header_parameters(media_type)[1] if media_type else {}
    charset = parameters.get("charset", "utf-8")
    if charset.lower() not in ("utf-8", "utf8"):
        raise ParseError("JSON is UTF-8; another charset is not accepted.", code="not_utf8")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:100]!r} appears twice in one object")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _refuse_depth(data: Any) -> None:
    level = [data]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> ParseError:
    return ParseError(f"JSON may be nested {MAX_DEPTH} levels deep at most.", code="too_deep")
