"""HTTPS: clients' certificates, ciphers, certificates that change; and Unix domain sockets."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from server_stubs import make_state, serving
from stub_process import Process

from ozone.errors import ConfigError
from ozone.server import tls
from ozone.server.flags import ServerSettings
from ozone.server.listener import bind, server_url
from ozone.server.run import run_server

Pair = tuple[Path, Path]


def make_certificate(folder: Path, name: str) -> Pair:
    """A self-signed certificate for 127.0.0.1, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here to make a certificate with")
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", f"/CN={name}"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Pair]:
    folder = tmp_path_factory.mktemp("tls")
    return make_certificate(folder, "server"), make_certificate(folder, "client")


def settings_of(pair: Pair, **more) -> ServerSettings:
    return ServerSettings(port=0, ssl_certfile=str(pair[0]), ssl_keyfile=str(pair[1]), **more)


def served_certificate(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)


def test_https_is_served_with_a_certificate(pairs: tuple[Pair, Pair]) -> None:
    with serving(make_state(settings=settings_of(pairs[0]))) as running:
        url = running.url.replace("http:", "https:")
        context = ssl.create_default_context(cafile=pairs[0][0])
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": "x"}, verify=context)
        assert answer.status_code == 200


def test_a_certificate_that_is_none_is_a_mistake(pairs: tuple[Pair, Pair]) -> None:
    key = pairs[0][1]
    state = make_state(settings=settings_of((key, key)))
    try:
        with pytest.raises(ConfigError, match=r"--ssl-certfile: .*\.key hold no certificate"):
            run_server(state)
    finally:
        state.engine.shutdown()


def test_clients_may_have_to_show_a_certificate(pairs: tuple[Pair, Pair]) -> None:
    server, client = pairs
    settings = settings_of(server, ssl_ca_certs=str(client[0]), ssl_cert_reqs=2)
    with serving(make_state(settings=settings)) as running:
        url = running.url.replace("http:", "https:")
        context = ssl.create_default_context(cafile=server[0])
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{url}/health", verify=context)
        context.load_cert_chain(*client)
        assert httpx.get(f"{url}/health", verify=context).status_code == 200


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ssl_ciphers": "NO-SUCH-CIPHER"}, "--ssl-ciphers NO-SUCH-CIPHER"),
        ({"ssl_ca_certs": __file__}, "--ssl-ca-certs: .* holds no certificates"),
        ({"ssl_certfile": None, "ssl_refresh": True}, "--enable-ssl-refresh needs --ssl-certfile"),
        ({"ssl_keyfile": __file__}, "--ssl-certfile: .* hold no certificate with its key"),
    ],
)
def test_what_openssl_cannot_use_is_a_mistake(pairs: tuple[Pair, Pair], more: dict, words: str) -> None:
    fields = {"ssl_certfile": str(pairs[0][0]), "ssl_keyfile": str(pairs[0][1]), **more}
    with pytest.raises(ConfigError, match=words):
        tls.check_tls(ServerSettings(**fields))


def test_a_certificate_that_changes_is_read_again(
    pairs: tuple[Pair, Pair],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tls, "REFRESH_SECONDS", 0.05)
    current = tmp_path / "cert.pem", tmp_path / "key.pem"

    def put(pair: Pair, seconds: float) -> None:
        for source, target in zip(pair, current, strict=True):
            shutil.copy(source, target)
            os.utime(target, (seconds, seconds))

    put(pairs[0], 1000)
    state = make_state(settings=settings_of(current, ssl_refresh=True))
    with caplog.at_level(logging.INFO, "ozone"), serving(state) as running:
        port = int(running.url.rpartition(":")[2])
        assert served_certificate(port) == pairs[0][0].read_text()
        current[0].write_text("nothing of the kind")
        wait_for(lambda: "cannot be used" in caplog.text)
        assert served_certificate(port) == pairs[0][0].read_text()
        put(pairs[1], 2000)
        wait_for(lambda: served_certificate(port) == pairs[1][0].read_text())


def wait_for(done, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_unix_domain_socket_is_served_and_removed(start: type[Process], tmp_path: Path) -> None:
    path = tmp_path / "ozone.sock"
    process = start("0", "--uds", str(path))
    assert process.url == f"http+unix:{path}"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://evil.example") as http:
        assert http.get("/v1/models").status_code == 200  # no browser gets here: names do not matter
        assert http.get("/nothing").status_code == 404
        assert http.post("/v1/completions", json={"prompt": "x", "max_tokens": 2}).status_code == 200
    with pytest.raises(ConfigError, match="Address already in use"):
        bind(ServerSettings(uds=str(path)))
    process.popen.send_signal(signal.SIGTERM)
    _, log = process.popen.communicate(timeout=10)
    assert "Traceback" not in log and not path.exists()


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "ozone.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    settings = ServerSettings(uds=str(path))
    with bind(settings) as listener:
        assert server_url(settings, listener) == f"http+unix:{path}"


@pytest.mark.parametrize("name", ["file", "no/such/folder/x.sock", "x" * 200])
def test_a_path_that_cannot_be_listened_on_is_a_mistake(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match=r"cannot listen on --uds"):
        bind(ServerSettings(uds=str(tmp_path / name)))
    assert (tmp_path / "file").read_text() == "kept"
