"""The pages of the schema work without a network, and nothing foreign can run in them."""

from __future__ import annotations

import re
import sys
from urllib.parse import urljoin

import httpx
import pytest
from server_stubs import RunningServer, make_state, serving

from ozone.server import docs_page
from ozone.server.flags import ServerSettings


def policy(answer: httpx.Response) -> dict[str, list[str]]:
    parts = answer.headers["content-security-policy"].split(";")
    return {name: sources for name, *sources in map(str.split, parts)}


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_loads_only_what_this_server_serves(http: httpx.Client, path: str) -> None:
    page = http.get(path)
    assert page.headers["content-type"].startswith("text/html")
    assert "//" not in page.text
    assert not re.search(r"<script>|\son\w+=", page.text)  # the policy lets no inline script run
    loaded = re.findall(r'(?:src|href|spec-url)="([^"]+)"', page.text)
    assert "docs/favicon.png" in loaded
    for link in loaded:
        answer = http.get(urljoin(str(page.url), link))
        assert (answer.status_code, bool(answer.content)) == (200, True), link
        assert answer.headers["content-type"].split(";")[0] in (
            *("text/javascript", "application/javascript", "text/css", "image/png", "application/json"),
        )


def test_the_policy_lets_nothing_foreign_in(http: httpx.Client) -> None:
    for path in ("/docs", "/redoc"):
        rules = policy(http.get(path))
        assert rules["default-src"] == ["'none'"]
        assert rules["script-src"] == rules["connect-src"] == ["'self'"]
        assert rules["frame-ancestors"] == ["'none'"]


def test_pages_and_assets_work_below_a_root_path() -> None:
    with serving(make_state(settings=ServerSettings(port=0, root_path="/llm"))) as server:
        for prefix in ("", "/llm"):
            page = httpx.get(f"{server.url}{prefix}/docs")
            assert httpx.get(urljoin(str(page.url), "docs/swagger-ui.css")).status_code == 200
            assert httpx.get(urljoin(str(page.url), "openapi.json")).json()["servers"] == [{"url": "/llm"}]


def test_the_start_script_asks_nobody_else(http: httpx.Client) -> None:
    script = http.get("/docs/start.js").text
    assert "validatorUrl: null" in script and "http" not in script


def test_assets_are_switched_off_with_the_pages() -> None:
    with serving(make_state(settings=ServerSettings(port=0, docs=False))) as server:
        for path in ("/docs/swagger-ui.css", "/docs/start.js"):
            assert httpx.get(server.url + path).status_code == 404


def test_without_the_package_the_pages_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs_page, "_asset_folder", lambda: None)
    with serving(make_state()) as server:
        refused = httpx.get(f"{server.url}/docs")
        assert refused.status_code == 501
        assert "fastapi-offline" in refused.json()["error"]["message"]
        assert httpx.get(f"{server.url}/openapi.json").status_code == 200


def test_the_package_is_not_imported(server: RunningServer) -> None:
    httpx.get(f"{server.url}/docs")
    assert "fastapi_offline" not in sys.modules
