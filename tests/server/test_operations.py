"""What operators and proxies rely on: names of requests, HEAD, probes, root paths, and clear 404 and 405."""

from __future__ import annotations

import asyncio
import http.client as raw_http
import logging
import re
import threading
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_stubs import RunningServer, make_state, serving
from starlette.types import Message

from ozone.server.app import create_app
from ozone.server.flags import ServerSettings
from ozone.server.request_ids import clean_id

KEY = {"Authorization": "Bearer k"}


@pytest.fixture(scope="module")
def operated() -> Iterator[RunningServer]:
    """A server with a key, below a root path, with every endpoint that is off unless asked for."""
    settings = ServerSettings(
        port=0,
        root_path="/llm",
        api_keys=("k",),
        request_id_headers=True,
        tokenizer_info_endpoint=True,
        server_dev_mode=True,
        log_requests=True,
    )
    state = make_state(
        settings=settings, max_model_len=4096, tokenizer_info=lambda: {"tokenizer_class": "Stub"}
    )
    with serving(state) as running:
        yield running


@pytest.fixture
def client(operated: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=operated.url, headers=KEY, timeout=20) as client:
        yield client


def complete(
    http: httpx.Client, headers: dict | None = None, path: str = "", **fields: object
) -> httpx.Response:
    path = path or "/v1/completions"
    return http.post(path, headers=headers or {}, json={"prompt": "a", "max_tokens": 1, **fields})


def test_the_header_names_a_request_before_the_field_does(http: httpx.Client) -> None:
    assert complete(http, {"X-Request-Id": "from-header"}, request_id="b").json()["id"] == "cmpl-from-header"
    assert complete(http, request_id="from-field").json()["id"] == "cmpl-from-field"
    messages = [{"role": "user", "content": "a"}]
    chat = {"messages": messages, "max_tokens": 1, "request_id": "x"}
    assert http.post("/v1/chat/completions", json=chat).json()["id"] == "chatcmpl-x"
    assert len(complete(http).json()["id"]) == len("cmpl-") + 32
    assert "x-request-id" not in complete(http, {"X-Request-Id": "a"}).headers


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("x" * 5000, "x" * 128),
        ('a"b\t<c> d#1', "a_b__c__d_1"),
        ("3f2b-:~+/=@._", "3f2b-:~+/=@._"),
    ],
)
def test_a_name_is_short_and_safe_everywhere(client: httpx.Client, given: str, name: str) -> None:
    answer = complete(client, {"X-Request-Id": given})
    assert answer.json()["id"] == f"cmpl-{name}"
    assert answer.headers["x-request-id"] == name


def test_a_name_from_a_field_is_safe_too(client: httpx.Client) -> None:
    answer = complete(client, request_id="\x1b[2J é")
    assert answer.json()["id"] == "cmpl-__2J__"
    assert answer.headers["x-request-id"] == "__2J__"
    assert complete(client, request_id=7).status_code == 400


def test_every_answer_has_a_name_where_the_header_is_asked_for(client: httpx.Client) -> None:
    assert len(client.get("/v1/models").headers["x-request-id"]) == 32
    refused = client.get("/v1/models", headers={"Authorization": "no", "X-Request-Id": "a"})
    assert (refused.status_code, refused.headers["x-request-id"]) == (401, "a")
    with client.stream(
        "POST", "/v1/completions", json={"prompt": "a", "max_tokens": 1, "stream": True, "request_id": "s"}
    ) as stream:
        assert stream.headers["x-request-id"] == "s"


def test_requests_of_the_same_name_run_beside_each_other(
    operated: RunningServer, client: httpx.Client
) -> None:
    operated.runner.delay = 0.005
    try:
        answers: list[httpx.Response] = []
        bodies = [{"prompt": ["a", "b"]}, {"prompt": "a"}, {"prompt": "b"}]
        threads = [
            threading.Thread(
                target=lambda body=body: answers.append(
                    complete(client, request_id="twin", max_tokens=20, **body)
                )
            )
            for body in bodies
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    finally:
        operated.runner.delay = 0.0
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert {answer.json()["id"] for answer in answers} == {"cmpl-twin"}
    operated.wait_until_idle()


def test_the_log_names_the_request(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ozone"):
        complete(client, {"X-Request-Id": "find-me"})
    assert any("cmpl-find-me" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/stub", "/health", "/metrics", "/version", "/", "/docs"]
)
def test_head_is_get_without_its_body(http: httpx.Client, path: str) -> None:
    got, head = http.get(path), http.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"] if got.content else True
    if path != "/metrics":
        assert head.headers["content-length"] == got.headers["content-length"]


def test_probes_get_an_answer_and_load_counts_requests(client: httpx.Client) -> None:
    for request in (httpx.get, httpx.post, httpx.head):
        assert request(f"{client.base_url}/ping").status_code == 200
    assert client.get("/load").json() == {"server_load": 0}


def test_what_is_off_unless_asked_for(http: httpx.Client, client: httpx.Client) -> None:
    assert http.get("/tokenizer_info").status_code == 404
    assert http.post("/reset_prefix_cache").status_code == 404
    assert client.get("/tokenizer_info").json() == {"tokenizer_class": "Stub"}


def test_the_prefix_cache_is_reset_unless_requests_run(operated: RunningServer, client: httpx.Client) -> None:
    def cached() -> int:
        usage = complete(client, prompt="p" * 100).json()["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    cached()
    for value in ("true", "x"):
        refused = client.post(f"/reset_prefix_cache?reset_running_requests={value}")
        assert refused.status_code == 400
    assert cached() > 0
    assert client.post("/reset_prefix_cache").json()["success"] is True
    assert cached() == 0
    operated.runner.delay = 0.01
    try:
        with client.stream(
            "POST",
            "/v1/completions",
            json={"prompt": "a", "max_tokens": 3000, "stream": True, "ignore_eos": True},
        ) as stream:
            lines = stream.iter_lines()  # kept: dropping it ends the request
            next(lines)
            assert client.get("/load").json() == {"server_load": 1}
            refused = client.post("/reset_prefix_cache")
            assert (refused.status_code, refused.json()["success"]) == (200, False)
    finally:
        operated.runner.delay = 0.0
    operated.wait_until_idle()


@pytest.mark.parametrize("prefix", ["", "/llm"])
def test_a_root_path_works_with_and_without_a_stripping_proxy(client: httpx.Client, prefix: str) -> None:
    assert client.get(f"{prefix}/v1/models").json()["data"][0]["id"] == "stub"
    assert client.get(f"{prefix}/").status_code == 200
    assert client.get(f"{prefix}/health", headers={"Authorization": ""}).status_code == 200
    assert client.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/llm"}]
    assert complete(client, path=f"{prefix}/v1/completions").status_code == 200
    assert client.head(f"{prefix}/version").status_code == 200


def test_a_root_path_that_looks_like_one_of_ours() -> None:
    with serving(make_state(settings=ServerSettings(port=0, root_path="/v1"))) as server:
        for path in ("/v1/models", "/v1/v1/models"):
            assert httpx.get(server.url + path).json()["data"][0]["id"] == "stub"


@pytest.mark.parametrize(
    "path",
    [
        *("//health", "/health/", "/health//", "/llm//health", "/llm/../v1/models", "/health/../v1/models"),
        *(
            "/health%2f..%2fv1%2fmodels",
            "/v1/models?/health",
            "/health;/v1/models",
            "/llm/llm/health",
            "/healthz",
        ),
        *("/llmhealth", "/health%00", "/ping/v1/models", "/HEALTH", "/v1/models#/health"),
    ],
)
def test_no_spelling_of_a_path_gets_around_the_key(operated: RunningServer, path: str) -> None:
    port = int(operated.url.rpartition(":")[2])
    connection = raw_http.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)  # as it stands: httpx would tidy it up
    assert connection.getresponse().status == 401
    connection.close()


def test_an_unknown_path_is_a_404_that_names_a_near_one(http: httpx.Client) -> None:
    error = http.post("/chat/completions", json={}).json()["error"]
    assert error["message"] == "Nothing is served at /chat/completions; did you mean /v1/chat/completions?"
    assert "did you mean /v1/completions?" in http.get("/v1/completion").json()["error"]["message"]
    far = http.get("/wp-admin.php?x=%1b[2J")
    assert (far.status_code, far.json()["error"]["type"]) == (404, "not_found_error")
    assert len(http.get("/" + "x" * 30_000).content) < 1000


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/completions", "POST"),
        ("/v1/models", "GET, HEAD"),
        ("/health", "GET, HEAD"),
        ("/ping", "GET, HEAD, POST"),
    ],
)
def test_a_method_that_is_not_answered_is_told_which_are(http: httpx.Client, path: str, allow: str) -> None:
    for method in ("DELETE", "PATCH", "BREW"):
        answer = http.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allow)
        assert answer.json()["error"]["message"] == f"{path} does not answer {method}, only {allow}"
    if "HEAD" not in allow:
        assert http.head(path).status_code == 405


def test_the_page_shows_a_hostile_name_as_text() -> None:
    state = make_state()
    state.model_names = ("<script>alert(1)</script>",)
    with serving(state) as server:
        page = httpx.get(server.url)
        assert "<script>" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]


PIECES = [
    "/",
    "//",
    "health",
    "ping",
    "llm",
    "v1",
    "models",
    "..",
    ".",
    ";",
    "%2f",
    "\\",
    "\0",
    " ",
    "é",
    "metrics",
]


def test_only_health_and_ping_are_open_whatever_the_path() -> None:
    state = make_state(settings=ServerSettings(root_path="/llm", api_keys=("k",)))
    app = create_app(state)

    async def status(path: str, method: str) -> int:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": []}
        scope |= {"query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1", "state": {}}
        await app({**scope, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}, receive, send)
        return sent[0]["status"]

    @given(st.lists(st.sampled_from(PIECES), max_size=8), st.sampled_from(["GET", "HEAD", "POST", "BREW"]))
    def check(pieces: list[str], method: str) -> None:
        path = "/" + "".join(pieces)
        is_open = path in {"/health", "/ping", "/llm/health", "/llm/ping"}
        assert (asyncio.run(status(path, method)) != 401) is is_open

    check()
    for path in ("/health", "/llm/ping"):
        assert asyncio.run(status(path, "HEAD")) == 200
    state.engine.shutdown()


@given(st.text(min_size=1, max_size=200))
def test_any_name_becomes_a_safe_one(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._:~+/=@-]{1,128}", clean_id(text).replace("_", "-"))
