"""A page whose name resolves to this machine does not get to use the model; everybody else does."""

from __future__ import annotations

import socket

import httpx
import pytest
from server_stubs import RunningServer, make_state, serving

from ozone.server.flags import ServerSettings
from ozone.server.hosts import HostRules, checks_hosts

LOCAL = HostRules(ServerSettings())
OPEN = HostRules(ServerSettings(host="0.0.0.0"))
NAMED = HostRules(ServerSettings(host="gpu.example.com", allowed_hosts=("llm.example.com", "*.example.org")))


@pytest.mark.parametrize(
    "host",
    [
        *(
            "localhost",
            "LOCALHOST:8000",
            "localhost.",
            "a.localhost:1",
            "127.0.0.1:8000",
            "127.1.2.3",
            "[::1]:8000",
        ),
        *("10.1.2.3:8000", "[fe80::1%eth0]:80", "192.168.0.7", "", socket.gethostname()),
    ],
)
def test_own_names_and_addresses_always_pass(host: str) -> None:
    for rules in (LOCAL, OPEN, NAMED):
        assert rules.takes_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "ozone:8000",
        "gpu-box",
        "gpu.local",
        "host.docker.internal:8000",
        "ozone.prod.svc.cluster.local",
        "a.b.svc",
    ],
)
def test_names_of_the_network_pass_where_the_network_is_served(host: str) -> None:
    assert OPEN.takes_host(host)
    assert not LOCAL.takes_host(host)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"),
        *(
            "evil.example.",
            "0x7f.1",
            "127.1",
            "evil@127.0.0.1",
            "localhost@evil.example",
            "evillocalhost.com",
        ),
        *("x" * 9000 + ".com", "example.com", "evil.com/.localhost", "exampleXorg.com", "[::1].evil.example"),
    ],
)
def test_foreign_names_do_not_pass(host: str) -> None:
    for rules in (LOCAL, OPEN, NAMED):
        assert not rules.takes_host(host)


def test_names_that_the_user_allows() -> None:
    for host in ("llm.example.com", "gpu.example.com:8000", "a.example.org", "a.b.EXAMPLE.org:443"):
        assert NAMED.takes_host(host)
    assert not NAMED.takes_host("example.org")


def test_a_key_is_enough_and_a_star_asks_for_nothing() -> None:
    assert checks_hosts(ServerSettings())
    assert not checks_hosts(ServerSettings(api_keys=("k",)))
    assert checks_hosts(ServerSettings(api_keys=("k",), allowed_hosts=("a",)))
    assert not checks_hosts(ServerSettings(allowed_hosts=("*",)))


def test_a_foreign_host_is_refused_in_one_line_and_health_answers(server: RunningServer) -> None:
    foreign = {"Host": "evil.example:8000", "X-Forwarded-Host": "localhost"}
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/"), ("GET", "/docs")):
        refused = httpx.request(method, server.url + path, headers=foreign)
        assert refused.status_code == 403
        assert "--allowed-hosts evil.example" in refused.json()["error"]["message"]
    for path in ("/health", "/ping"):
        assert httpx.get(server.url + path, headers=foreign).status_code == 200
    for path in ("/health/", "//health"):
        assert httpx.get(server.url + path, headers=foreign).status_code == 403


def test_every_host_header_counts(server: RunningServer) -> None:
    with socket.create_connection(
        ("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=10
    ) as connection:
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert connection.recv(4096).split(b" ")[1] in (b"400", b"403")
    with socket.create_connection(
        ("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=10
    ) as connection:
        connection.sendall(b"GET /version HTTP/1.0\r\n\r\n")  # no browser sends this
        assert connection.recv(4096).split(b" ")[1] == b"200"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        *[
            ("https://evil.example", 403),
            ("null", 403),
            ("http://[", 403),
            ("", 403),
            ("http://1.2.3.4", 403),
        ],
        *[("http://localhost:3000", 200), ("http://SAME", 200)],
    ],
)
def test_pages_of_foreign_origins_cannot_act(server: RunningServer, origin: str, status: int) -> None:
    origin = origin.replace("SAME", server.url.removeprefix("http://"))
    body = {"prompt": "a"}
    answer = httpx.post(f"{server.url}/tokenize", json=body, headers={"Origin": origin})
    assert answer.status_code == status
    assert status == 200 or "--allowed-origins" in answer.json()["error"]["message"]


def test_allowed_origins_and_hosts_may_act() -> None:
    settings = ServerSettings(
        port=0, allowed_origins=("https://a.example",), allowed_hosts=("llm.example.com",)
    )
    with serving(make_state(settings=settings)) as server:
        for host, origin in (("", "https://a.example"), ("llm.example.com", "https://llm.example.com")):
            headers = {"Origin": origin, **({"Host": host} if host else {})}
            answer = httpx.post(f"{server.url}/tokenize", json={"prompt": "a"}, headers=headers)
            assert answer.status_code == 200
