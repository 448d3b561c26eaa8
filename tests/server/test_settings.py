"""The server's flags are those of vLLM, and a value that cannot work is said in one line."""

from __future__ import annotations

import argparse

import pytest

from ozone.errors import ConfigError
from ozone.server.settings import ServerSettings, add_server_arguments, server_settings


def parse(*arguments: str) -> ServerSettings:
    parser = argparse.ArgumentParser()
    add_server_arguments(parser)
    return server_settings(parser.parse_args(arguments))


@pytest.fixture(autouse=True)
def no_key_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OZONE_API_KEY", raising=False)


def test_no_flags_are_the_defaults() -> None:
    assert parse() == ServerSettings()


def test_flags_become_settings() -> None:
    assert parse(
        *["--host", "0.0.0.0", "--port", "0", "--api-key", "a", "b", "--api-key", "c", "--root-path", "/llm"],
        *["--allowed-origins", '["https://a.example", "https://b.example"]', "--allowed-headers", "x-one"],
        *["--allow-credentials", "--uvicorn-log-level", "info", "--disable-uvicorn-access-log"],
        *["--enable-log-requests", "--disable-fastapi-docs", "--max-request-bytes", "9"],
        *["--shutdown-timeout", "1.5"],
    ) == ServerSettings(
        host="0.0.0.0",
        port=0,
        api_keys=("a", "b", "c"),
        root_path="/llm",
        allowed_origins=("https://a.example", "https://b.example"),
        allowed_headers=("x-one",),
        allow_credentials=True,
        uvicorn_log_level="info",
        access_log=False,
        log_requests=True,
        docs=False,
        max_request_bytes=9,
        shutdown_timeout=1.5,
    )


def test_the_key_may_come_from_the_environment_and_the_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OZONE_API_KEY", "from-env")
    assert parse().api_keys == ("from-env",)
    assert parse("--api-key", "from-flag").api_keys == ("from-flag",)
    monkeypatch.setenv("OZONE_API_KEY", "")
    assert parse().api_keys == ()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "-1"],
        ["--port", "65536"],
        ["--api-key", ""],
        ["--api-key", "zwei Wörter"],
        ["--max-request-bytes", "0"],
        ["--shutdown-timeout", "-1"],
        ["--shutdown-timeout", "nan"],
        ["--shutdown-timeout", "inf"],
        ["--shutdown-timeout", "1e10"],
        ["--root-path", "llm"],
        ["--allowed-origins", "[1]"],
        ["--allowed-origins", "[oops"],
        ["--ssl-keyfile", "key.pem"],
        ["--ssl-certfile", "/does/not/exist.pem"],
    ],
)
def test_a_value_that_cannot_work_is_said_in_one_line(arguments: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(*arguments)
    assert arguments[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_is_not_repeated_in_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("--api-key", "geheim\u00e4")
    assert "geheim" not in str(caught.value)
