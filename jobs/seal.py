"""Proves that bytes which come back from Redis are bytes that this platform put there.

Whoever can write to Redis could else answer for the database: another owner's status, or a key that
speaks for somebody else. A seal is a keyed BLAKE2b (RFC 7693) under Django's SECRET_KEY; a value
without a good one counts as missing. An old sealed value can still be played back, within its life.
"""

from __future__ import annotations

import hmac
from functools import cache
from hashlib import blake2b

from django.conf import settings
from django.core.signals import setting_changed

#: Hexadecimal digits of a seal: 128 bits.
LENGTH = 32


def of(content: bytes) -> bytes:
    """The seal of ``content``: ``LENGTH`` ASCII characters."""
    mark = _keyed().copy()
    mark.update(content)
    return mark.hexdigest().encode()


def is_good(seal: bytes, content: bytes) -> bool:
    """Whether ``seal`` is that of ``content``."""
    return hmac.compare_digest(seal, of(content))


@cache
def _keyed() -> blake2b:
    """The hash with nothing but its key in it: copying it is cheaper than keying another."""
    secret = settings.SECRET_KEY.encode()
    key = blake2b(secret, digest_size=32, person=b"jobs.seal").digest()
    return blake2b(digest_size=LENGTH // 2, key=key)


def _forget(*, setting: str, **_: object) -> None:
    if setting == "SECRET_KEY":
        _keyed.cache_clear()


setting_changed.connect(_forget, dispatch_uid="jobs.seal")
