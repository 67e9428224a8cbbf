"""The files below platform/services, read by the servers that they are for."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from interlock.local import processes
from interlock.local.ports import LOOPBACK, free_port
from interlock.local.postgres import installed_binaries as postgres_binaries
from interlock.local.rabbitmq import RabbitServer
from interlock.local.rabbitmq import installed_binaries as rabbitmq_binaries
from tests import composefile
from tests.composefile import SERVICES
from tests.integration.compose_stack import cache, until

NGINX = shutil.which("nginx")

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]


# -- PostgreSQL and RabbitMQ --------------------------------------------------------------------


@pytest.mark.skipif(postgres_binaries() is None, reason="no PostgreSQL installed here")
@pytest.mark.parametrize("broken", [False, True])
def test_postgresql_accepts_its_file(tmp_path: Path, broken: bool) -> None:
    binaries = postgres_binaries()
    assert binaries is not None
    copy = tmp_path / "postgresql.conf"
    text = (SERVICES / "postgres/postgresql.conf").read_text()
    copy.write_text(text + ("fsyncc = on\n" if broken else ""))

    # -C reads and checks the whole file, prints one setting and ends; root may do that as well.
    done = subprocess.run(
        [binaries / "postgres", "-C", "fsync", "-D", tmp_path, "-c", f"config_file={copy}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode == 0) is not broken, done.stderr
    assert broken or done.stdout.strip() == "on"


def _without_place(text: str, definitions: Path) -> str:
    """The file, apart from where the node listens and logs."""
    kept = [line for line in text.splitlines() if not line.startswith(("listeners.", "log."))]
    return "\n".join(kept).replace("/tmp/definitions.json", str(definitions))


@pytest.mark.skipif(rabbitmq_binaries() is None, reason="no RabbitMQ installed here")
def test_rabbitmq_starts_with_its_files(tmp_path: Path) -> None:
    definitions = tmp_path / "definitions.json"
    subprocess.run(
        ["sh", SERVICES / "rabbitmq/start", "true"],
        env={**composefile.example_values(), "DEFINITIONS_FILE": str(definitions)},
        check=True,
    )
    assert definitions.stat().st_mode & 0o077 == 0, "passwords are readable by others"
    text = (SERVICES / "rabbitmq/rabbitmq.conf").read_text()
    server = RabbitServer(tmp_path / "node", extra_config=_without_place(text, definitions))

    with server:
        users = server.ctl("list_users")
        hosts = server.ctl("list_vhosts")
        limits = server.ctl(
            "eval",
            "[V || K <- [consumer_timeout, max_message_size, disk_free_limit],"
            " {ok, V} <- [application:get_env(rabbit, K)]].",
        )

    assert {line.split()[0] for line in users.splitlines()[1:]} == {"topology", "relay", "worker"}
    assert hosts.split() == ["name", "interlock"]
    assert limits.strip() == '[93600000,65536,"2GB"]'


@pytest.mark.parametrize("password", [None, "with space", "a/b", "a'b"])
def test_rabbitmq_refuses_a_password_that_would_break_its_files(
    tmp_path: Path, password: str | None
) -> None:
    values = {**composefile.example_values(), "DEFINITIONS_FILE": str(tmp_path / "out")}
    values.pop("BROKER_RELAY_PASSWORD")
    given = values if password is None else {**values, "BROKER_RELAY_PASSWORD": password}

    done = subprocess.run(
        ["sh", SERVICES / "rabbitmq/start", "true"],
        env=given,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "BROKER_RELAY_PASSWORD" in done.stderr


# -- Redis --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    values = composefile.example_values()
    with cache(values, tmp_path_factory.mktemp("cache")) as place:
        if not place.own_users:
            pytest.skip("no redis-server installed here")
        client = redis.Redis.from_url(
            place.locate(f"redis://interlock:{values['CACHE_PASSWORD']}@redis:6379/0")
        )
        yield client
        client.close()


def test_redis_allows_what_the_platform_does(cache_client: redis.Redis) -> None:
    cache_client.set("jobs:s:1", b"x", px=5000, nx=True)
    assert cache_client.mget(["jobs:s:1", "jobs:s:2"]) == [b"x", None]
    script = cache_client.register_script(
        "redis.call('SET', KEYS[1], ARGV[1], 'PX', 5000)"
        " redis.call('PUBLISH', KEYS[2], ARGV[1]) return redis.call('DEL', KEYS[1])"
    )
    assert script(keys=["jobs:s:3", "jobs:c:3"], args=["1"]) == 1
    with cache_client.pubsub() as subscription:  # type: ignore[no-untyped-call]  # redis-py's gap
        subscription.subscribe("jobs:wake")
        assert cache_client.publish("jobs:wake", b"1") == 1
        assert cache_client.pubsub_numsub("jobs:wake") == [(b"jobs:wake", 1)]


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "SCAN 0",
        "CONFIG GET *",
        "ACL LIST",
        "SCRIPT FLUSH",
        "SHUTDOWN NOSAVE",
        "GET other:1",
        "PUBLISH other 1",
        "EVAL return(redis.call('FLUSHALL')) 0",
        "EVAL return(redis.call('GET','other:1')) 0",
    ],
)
def test_redis_refuses_the_rest(cache_client: redis.Redis, command: str) -> None:
    with pytest.raises(redis.ResponseError, match=r"permission|can't"):
        cache_client.execute_command(*command.split())  # type: ignore[no-untyped-call]  # same


# -- the proxy ----------------------------------------------------------------------------------


def port_of(server: socketserver.BaseServer) -> int:
    return int(server.server_address[1])  # type: ignore[index]  # always a pair for TCP


class Replica(http.server.BaseHTTPRequestHandler):
    """Answers with what it was sent."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps(
            {
                "port": port_of(self.server),
                "bytes": len(sent),
                "headers": {key.lower(): value for key, value in self.headers.items()},
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer  # noqa: N815 - the names that http.server looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@dataclass
class Proxy:
    port: int
    replicas: list[http.server.ThreadingHTTPServer]
    waiting: http.server.ThreadingHTTPServer
    access_log: Path

    def ask(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> tuple[int, Any, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=20)
        try:
            method = "GET" if body is None else "POST"
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()), answer
        finally:
            connection.close()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    """nginx with the real file: only addresses, paths and the way to the replicas differ."""
    servers = [http.server.ThreadingHTTPServer((LOOPBACK, 0), Replica) for _ in range(3)]
    waiting, *replicas = servers
    for replica in servers:
        threading.Thread(target=replica.serve_forever, daemon=True).start()
    port, log = free_port(), tmp_path / "access.log"
    pool = " ".join(f"server {LOOPBACK}:{port_of(one)};" for one in replicas)
    text = (SERVICES / "proxy/nginx.conf").read_text()
    replaced = {
        "resolver 127.0.0.11 valid=2s ipv6=off;": f"upstream api {{ {pool} }}"
        f" upstream waiting {{ server {LOOPBACK}:{port_of(waiting)}; }}",
        "http://api:8000": "http://api",
        "http://$status_service:8000": "http://$status_service",
        "listen 8080": f"listen {LOOPBACK}:{port}",
        "/dev/stdout": str(log),
        "/dev/stderr": str(tmp_path / "error.log"),
        "/var/cache/nginx": str(tmp_path),
        "/tmp/": f"{tmp_path}/",
    }
    assert [written for written in replaced if written not in text] == []
    text = re.sub("|".join(map(re.escape, replaced)), lambda match: replaced[match[0]], text)
    # Started by root it would become `nobody`, who cannot enter our directory.
    user = "user root root;\n" if os.geteuid() == 0 else ""
    (tmp_path / "nginx.conf").write_text(user + text)
    shutil.copy(SERVICES / "proxy/trusted-proxies.conf", tmp_path)
    assert NGINX is not None, "nginx is missing: apt-get install nginx-light"
    process = processes.spawn(
        [NGINX, "-e", str(tmp_path / "start.log"), "-c", str(tmp_path / "nginx.conf")],
        cwd=tmp_path,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        log=tmp_path / "nginx.log",
    )
    try:
        until(lambda: _listens(port), 10, lambda: processes.log_tail(tmp_path / "nginx.log"))
        yield Proxy(port, replicas, waiting, log)
    finally:
        processes.stop(processes.Record.of(process.pid), signal.SIGTERM, 10)
        process.wait(timeout=10)
        for replica in servers:
            replica.shutdown()
            replica.server_close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def test_proxy_shares_requests_and_survives_a_replica(proxy: Proxy) -> None:
    assert len({proxy.ask("/")[1]["port"] for _ in range(10)}) == 2

    gone, left = proxy.replicas
    gone.shutdown()
    gone.server_close()
    answers = [proxy.ask("/", body=b"x") for _ in range(6)]
    assert {(status, said["port"]) for status, said, _ in answers} == {(200, port_of(left))}

    left.shutdown()
    left.server_close()
    status, said, answer = proxy.ask("/")
    assert (status, said["status"], said["code"]) == (503, 503, "unavailable")
    assert answer.headers["Retry-After"] == "2"
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_proxy_sends_who_waits_to_the_process_that_is_made_for_it(proxy: Proxy) -> None:
    def answering(path: str) -> int:
        return int(proxy.ask(path)[1]["port"])

    status = "/api/v1/jobs/4f9c/status/"
    assert {answering(f"{status}?{query}") for query in ("wait=5", "a=b&wait=0", "wait=x")} == {
        port_of(proxy.waiting)
    }
    others = (status, f"{status}?wait=", f"{status}?a=b", "/api/v1/jobs/?wait=5", "/?wait=5")
    assert {answering(path) for path in others} <= {port_of(one) for one in proxy.replicas}

    proxy.waiting.shutdown()
    proxy.waiting.server_close()
    assert answering(f"{status}?wait=5") in {port_of(one) for one in proxy.replicas}

    for replica in proxy.replicas:
        replica.shutdown()
        replica.server_close()
    code, said, _ = proxy.ask(f"{status}?wait=5")
    assert (code, said["code"]) == (503, "unavailable")


def test_proxy_replaces_what_strangers_claim(proxy: Proxy) -> None:
    forged = {
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "X-Real-IP": "203.0.113.9",
        "Forwarded": "for=203.0.113.9",
        "Proxy": "http://evil.example",
        "X_Forwarded_For": "203.0.113.9",
        "X-Script-Name": "/evil",
    }
    _, said, _ = proxy.ask("/api/v1/jobs/?token=secret", forged)
    seen = said["headers"]

    assert seen["x-forwarded-for"] == LOOPBACK
    assert seen["x-forwarded-proto"] == "http"
    assert len(seen["x-request-id"]) == 32
    assert not {"x-forwarded-host", "x-real-ip", "forwarded", "proxy"} & set(seen)
    assert not {"x_forwarded_for", "x-script-name"} & set(seen)
    until(lambda: "/api/v1/jobs/" in proxy.access_log.read_text(), 5)
    assert "secret" not in proxy.access_log.read_text()


def test_proxy_limits_bodies_by_address(proxy: Proxy) -> None:
    body = b"x" * (2 * 1024**2)

    status, said, answer = proxy.ask("/api/v1/jobs/", body=body)
    assert (status, said["code"]) == (413, "too_large")
    assert answer.headers["Content-Type"] == "application/problem+json"
    for path in ("/api/v1/jobs/bulk/", "/api/v1/uploads/"):
        assert proxy.ask(path, body=body)[1]["bytes"] == len(body)


def test_proxy_cuts_off_a_client_that_never_ends_its_header(proxy: Proxy) -> None:
    began = time.monotonic()
    with socket.create_connection((LOOPBACK, proxy.port), timeout=20) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        try:
            said = slow.recv(100)
        except ConnectionResetError:
            said = b""
    assert said == b"" or b"408" in said
    assert 8 < time.monotonic() - began < 15
