"""The server's flags are those of vLLM, and a value that cannot work is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ozone.config.command_line import ArgumentParser
from ozone.errors import ConfigError
from ozone.server.flag_table import docs_rows, rows
from ozone.server.flags import (
    API_KEY_VARIABLES,
    ServerSettings,
    add_server_arguments,
    server_settings,
    warn_of_empty_keys,
)


def parse(*arguments: str) -> ServerSettings:
    parser = ArgumentParser(prog="ozone serve")
    add_server_arguments(parser)
    return server_settings(parser.parse_args(arguments))


@pytest.fixture(autouse=True)
def no_key_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in API_KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


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


@pytest.mark.parametrize("name", API_KEY_VARIABLES)
def test_the_key_may_come_from_the_environment_and_the_flag_wins(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "from-env")
    assert parse().api_keys == ("from-env",)
    assert parse("--api-key", "from-flag").api_keys == ("from-flag",)
    monkeypatch.setenv(name, "")
    assert parse().api_keys == ()


def test_an_empty_variable_does_not_hide_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OZONE_API_KEY", "")
    monkeypatch.setenv("VLLM_API_KEY", "vllm")
    assert parse().api_keys == ("vllm",)


def test_an_empty_key_is_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "")
    warn_of_empty_keys(parse("--api-key", "k"))
    assert not caplog.messages
    warn_of_empty_keys(parse())
    assert caplog.messages == ["VLLM_API_KEY is empty: requests need no key"]


def test_a_bad_key_in_the_environment_is_an_error_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "gehe\u00efm")
    with pytest.raises(ConfigError, match=r"^VLLM_API_KEY: a key is") as caught:
        parse()
    assert "gehe" not in str(caught.value)


SWITCHES = {name: row for name, row in rows(ServerSettings).items() if row.is_switch}


@pytest.mark.parametrize("field", SWITCHES)
def test_a_switch_has_every_spelling_and_takes_a_value(field: str) -> None:
    stem = SWITCHES[field].flag.removeprefix("--").removeprefix("enable-").removeprefix("disable-")
    for spelling in (f"--{stem}", f"--enable-{stem}", f"--no-disable-{stem}"):
        assert getattr(parse(spelling), field) is True
        assert getattr(parse(f"{spelling}=no"), field) is False
    for spelling in (f"--no-{stem}", f"--disable-{stem}", f"--no-enable-{stem}"):
        assert getattr(parse(spelling), field) is False
        assert getattr(parse(f"{spelling}=false"), field) is True
    assert getattr(parse(f"--enable-{stem}", f"--disable-{stem}"), field) is False


def test_the_docs_show_the_table_of_flags() -> None:
    page = (Path(__file__).parents[2] / "docs" / "flags.md").read_text()
    assert "\n".join(docs_rows(ServerSettings)) in page, "run python tools/flags_page.py"


def test_help_shows_one_spelling_of_a_switch(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    assert "--disable-fastapi-docs" in shown
    assert "--no-disable-fastapi-docs" not in shown


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


def test_flags_that_shape_answers_are_vllms() -> None:
    settings = parse(
        *["--chat-template-content-format", "openai", "--default-chat-template-kwargs", '{"a": [1]}'],
        *["--stream-interval", "4", "--return-tokens-as-token-ids", "--enable-force-include-usage"],
        *["--disable-prompt-tokens-details", "--exclude-tools-when-tool-choice-none"],
    )
    assert settings.chat_template_content_format == "openai"
    assert settings.default_chat_template_kwargs == {"a": [1]}
    assert settings.stream_interval == 4
    assert settings.return_tokens_as_token_ids
    assert settings.force_include_usage
    assert not settings.prompt_tokens_details
    assert settings.exclude_tools_when_tool_choice_none
    assert parse("--enable-prompt-tokens-details").prompt_tokens_details


@pytest.mark.parametrize(
    "words",
    [
        ["--chat-template-content-format", "parts"],
        ["--default-chat-template-kwargs", "[1]"],
        ["--default-chat-template-kwargs", '{"messages": []}'],
        ["--stream-interval", "0"],
    ],
)
def test_bad_values_of_flags_that_shape_answers_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=words[0]):
        parse(*words)
