"""Looks at the first bytes of a file and says how to read it, or why it cannot be read."""

from __future__ import annotations

import codecs
import gzip
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from jobs.errors import PermanentFailure
from jobs.handlers.profiling.report import FileFormat, RequestedFormat

Compression = Literal["none", "gzip", "zstd"]

HEAD_BYTES: Final = 64 * 1024
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_PARQUET: Final = b"PAR1"
_ZIP: Final = b"PK\x03\x04"
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_COMPRESSED_SUFFIXES: Final = frozenset({".gz", ".gzip", ".zst", ".zstd"})
_FORMATS: Final[dict[str, FileFormat]] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A readable file. ``first`` is its first character that is not white space, if known."""

    path: Path
    bytes: int
    format: FileFormat
    compression: Compression
    first: str


def inspect(path: Path, requested: RequestedFormat) -> SourceFile:
    """Settle format and compression; raises PermanentFailure for what is no data file.

    A zstd file is not opened here (Python 3.11 cannot), so its format comes from the request
    or the name, and is CSV where neither says.
    """
    size, head = _head(path)
    compression = _compression(head)
    if compression == "gzip":
        head = _gunzipped_head(path)
    if compression == "zstd":
        return SourceFile(path, size, _named(path, requested) or "csv", compression, "")
    if head.startswith(_PARQUET) or requested == "parquet":
        return _parquet(path, size, requested, head, compression)
    text = _text(head)
    named = _named(path, requested)
    if named == "parquet":
        raise PermanentFailure("the file is named Parquet but does not begin with 'PAR1'")
    chosen = named or _guessed(text)
    return SourceFile(path, size, chosen, compression, text[0])


def _head(path: Path) -> tuple[int, bytes]:
    try:
        status = path.stat()
        # Opening a FIFO or a device could block for ever or have effects.
        if not stat.S_ISREG(status.st_mode):
            raise PermanentFailure("the source is not a regular file")
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except FileNotFoundError:
        raise PermanentFailure("the file does not exist") from None
    except PermissionError:
        raise PermanentFailure("the file may not be read: permission denied") from None
    if not head:
        raise PermanentFailure("the file is empty (0 bytes)")
    return status.st_size, head


def _compression(head: bytes) -> Compression:
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_ZSTD):
        return "zstd"
    return "none"


def _gunzipped_head(path: Path) -> bytes:
    try:
        with gzip.open(path, "rb") as stream:
            head = stream.read(HEAD_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise PermanentFailure("the gzip stream is damaged or cut short") from None
    if not head:
        raise PermanentFailure("the file is empty (0 bytes after decompression)")
    return head


def _parquet(
    path: Path, size: int, requested: RequestedFormat, head: bytes, compression: Compression
) -> SourceFile:
    if requested not in ("auto", "parquet"):
        raise PermanentFailure(f"the file is Parquet, not {requested}")
    if compression != "none":
        raise PermanentFailure("a compressed Parquet file must be decompressed first")
    if not head.startswith(_PARQUET):
        raise PermanentFailure("the file is not Parquet: it does not begin with 'PAR1'")
    return SourceFile(path, size, "parquet", "none", "")


def _text(head: bytes) -> str:
    """The head as text without a byte order mark; never empty."""
    if head.startswith(_ZIP):
        raise PermanentFailure("the file is a ZIP archive (or an office document), not a table")
    if head.startswith(_UTF16):
        raise PermanentFailure("the file is UTF-16 text; save it as UTF-8")
    if b"\0" in head:
        raise PermanentFailure("the file is binary data (it contains NUL bytes), not text")
    try:
        # Incremental, because the head may end in the middle of a character.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError as error:
        raise PermanentFailure(
            f"the file is not UTF-8 text: invalid byte at offset {error.start}"
        ) from None
    text = text.lstrip()
    if not text:
        raise PermanentFailure("the file is empty (nothing but white space)")
    return text


def _named(path: Path, requested: RequestedFormat) -> FileFormat | None:
    if requested != "auto":
        return requested
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED_SUFFIXES:
        suffixes.pop()
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def _guessed(text: str) -> FileFormat:
    if text.startswith("["):
        return "json"
    if text.startswith("{"):
        return "jsonl"
    return "csv"
