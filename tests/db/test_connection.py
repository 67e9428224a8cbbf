"""The database connection itself: what the project's settings ask of the kernel."""

from __future__ import annotations

import os
import socket

import pytest
from django.db import connection

pytestmark = pytest.mark.django_db


def test_a_peer_that_vanished_without_a_word_is_given_up() -> None:
    """Asleep or amid a statement: without these a cut network holds a loop for many minutes."""
    connection.ensure_connection()
    with socket.socket(fileno=os.dup(connection.connection.fileno())) as peer:
        if peer.family == socket.AF_UNIX:
            pytest.skip("no network in between")
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = {
            name: peer.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        }
    assert options["TCP_KEEPIDLE"] + options["TCP_KEEPINTVL"] * options["TCP_KEEPCNT"] <= 15
    assert 0 < options["TCP_USER_TIMEOUT"] <= 15_000
