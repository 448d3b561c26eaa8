"""The flags of the HTTP server, one row each: a row is a field of `ServerSettings`.

Arguments, values, errors and the table in `docs/flags.md` follow from the rows (`flag_table.py`): a new flag
is a new row. Nothing here imports FastAPI, so that a command line can show its help quickly.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ozone.config.values import boolean, choice, integer, mapping, show, text, text_list
from ozone.errors import ConfigError, RequestError, shown
from ozone.server.flag_table import add_flags, flag, read_flags

logger = logging.getLogger(__name__)

# The first of these that is not empty holds the API key.
API_KEY_VARIABLES = ("OZONE_API_KEY", "VLLM_API_KEY")


def _keys(value: object, where: str) -> tuple[str, ...]:
    keys = tuple(map(str, value)) if isinstance(value, list) else (str(value),)
    if not all(key.isascii() and key.isprintable() and key.strip() for key in keys):
        raise ConfigError(f"{where}: a key is one or more printable ASCII characters")
    return keys


def _seconds(value: object, where: str) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise ConfigError(f"{where}: {value} is not 0 to {threading.TIMEOUT_MAX:.0f} seconds")
    return seconds


def _root_path(value: object, where: str) -> str:
    path = "" if value == "" else text(value, where).rstrip("/")
    if path and (not path.startswith("/") or re.search(r"[^!-~]|[?#%\\]|//|/\.\.?(/|$)", path)):
        raise ConfigError(f"{where}: {show(value)!r} is not a path such as /llm")
    return path


def _template_variables(value: object, where: str) -> dict[str, Any]:
    from ozone.engine.chat_template import check_variables

    try:
        variables = mapping(value, where)
    except ConfigError:
        good = 'a JSON object such as {"enable_thinking": false}'
        raise ConfigError(f"{where}: {shown(value)} is not {good}") from None
    try:
        check_variables(variables)
    except RequestError as error:
        raise ConfigError(f"{where}: {error}") from None
    return variables


def _file(value: object, where: str) -> str:
    if not os.path.isfile(text(value, where)):  # False for names that no file can have, too
        raise ConfigError(f"{where}: no such file: {value}")
    return str(value)


@dataclass(frozen=True)
class ServerSettings:
    """How the HTTP server listens, whom it answers and what it refuses: a field for each flag."""

    host: str = flag(
        text,
        "address to listen on; 0.0.0.0 for every interface",
        "127.0.0.1",
        metavar="ADDRESS",
        vllm="every interface",
    )
    port: int = flag(
        integer(0, 65535), "port to listen on; 0 for any free one, which is printed", 8000, metavar="PORT"
    )
    api_keys: tuple[str, ...] = flag(
        _keys,
        "demand one of these keys as a Bearer token, except at /health and /ping",
        (),
        flag="--api-key",
        metavar="KEY",
        several=True,
        environment=API_KEY_VARIABLES,
        default=f"${' or $'.join(API_KEY_VARIABLES)}, else open",
        vllm="$VLLM_API_KEY, else open",
    )
    allowed_hosts: tuple[str, ...] = flag(
        text_list,
        "names besides its own that the server answers to, with commas between; *.example.com and * too",
        (),
        metavar="NAMES",
        vllm="",
    )
    allowed_origins: tuple[str, ...] = flag(
        text_list, "CORS origins, such as '[\"https://a.example\"]'", (), metavar="JSON"
    )
    allowed_methods: tuple[str, ...] = flag(text_list, "CORS methods", ("*",), metavar="JSON", default="all")
    allowed_headers: tuple[str, ...] = flag(text_list, "CORS headers", ("*",), metavar="JSON", default="all")
    allow_credentials: bool = flag(
        boolean, "let CORS requests carry credentials", False, flag="--allow-credentials"
    )
    root_path: str = flag(_root_path, "path under which a proxy publishes this server", "", metavar="PATH")
    ssl_keyfile: str | None = flag(_file, "private key for HTTPS", None, metavar="FILE")
    ssl_certfile: str | None = flag(_file, "certificate for HTTPS", None, metavar="FILE")
    ssl_ca_certs: str | None = flag(
        _file, "certificates that those of clients must be signed with", None, metavar="FILE"
    )
    ssl_cert_reqs: int = flag(
        integer(0, 2),
        "whether clients show certificates: 0 no, 1 if they have one, 2 they must",
        0,
        metavar="N",
    )
    ssl_ciphers: str | None = flag(
        text, "ciphers for HTTPS up to TLS 1.2, in OpenSSL's notation", None, metavar="LIST"
    )
    ssl_refresh: bool = flag(
        boolean,
        "read certificate and key again when their files change",
        False,
        flag="--enable-ssl-refresh",
    )
    uds: str | None = flag(
        text, "listen on this Unix domain socket instead of an address and port", None, metavar="PATH"
    )
    log_level: str = flag(
        choice("debug", "info", "warning", "error", "critical"),
        "what Ozone logs: debug, info, warning, error or critical",
        "info",
        metavar="LEVEL",
    )
    uvicorn_log_level: str = flag(
        choice("debug", "info", "warning", "error", "critical", "trace"),
        "what uvicorn logs: debug, info (adds a line per request), warning, error, critical or trace",
        "warning",
        metavar="LEVEL",
        vllm="info",
    )
    access_log: bool = flag(
        boolean,
        "no line per HTTP request, whatever the log level",
        True,
        flag="--disable-uvicorn-access-log",
    )
    quiet_paths: tuple[str, ...] = flag(
        text_list,
        "no such lines for these paths, with commas between, such as /health,/metrics",
        (),
        flag="--disable-access-log-for-endpoints",
        metavar="PATHS",
    )
    log_requests: bool = flag(
        boolean,
        "log sizes and sampling parameters of every request, never its text",
        False,
        flag="--enable-log-requests",
    )
    log_outputs: bool = flag(
        boolean,
        "log every completion's text and finish reason when it ends",
        False,
        flag="--enable-log-outputs",
    )
    max_log_len: int | None = flag(
        integer(0), "log at most so many characters of a completion", None, metavar="N", default="all"
    )
    log_stats: bool = flag(
        boolean,
        "no line every 10 s about requests, tokens and the KV cache while there is work",
        True,
        flag="--disable-log-stats",
    )
    log_config_file: str | None = flag(
        _file, "set up logging from a JSON file, as for Python's dictConfig", None, metavar="FILE"
    )
    chat_template_content_format: str = flag(
        choice("auto", "string", "openai"),
        "what the chat template gets as a message's content: string, openai (a list of parts) or auto",
        "auto",
        metavar="FORMAT",
    )
    default_chat_template_kwargs: Mapping[str, Any] | None = flag(
        _template_variables,
        "variables for the chat template, such as '{\"enable_thinking\": false}'; a request's own go first",
        None,
        metavar="JSON",
    )
    exclude_tools_when_tool_choice_none: bool = flag(
        boolean,
        'do not show the model the tools of a request with tool_choice: "none"',
        False,
        flag="--exclude-tools-when-tool-choice-none",
    )
    stream_interval: int = flag(
        integer(1), "tokens in a chunk of a stream; the first and the last go at once", 1, metavar="N"
    )
    return_tokens_as_token_ids: bool = flag(
        boolean, "name tokens token_id:N in log-probabilities, unless a request says otherwise", False
    )
    prompt_tokens_details: bool = flag(
        boolean,
        "usage tells how many of the prompt's tokens were cached",
        True,
        flag="--enable-prompt-tokens-details",
        vllm="off",
    )
    force_include_usage: bool = flag(
        boolean,
        "every chunk of every stream has the usage so far, and the last one all",
        False,
        flag="--enable-force-include-usage",
    )
    docs: bool = flag(boolean, "no /docs, /redoc and /openapi.json", True, flag="--disable-fastapi-docs")
    request_id_headers: bool = flag(
        boolean,
        "answer with an X-Request-Id header: the request's own, or a new one",
        False,
        flag="--enable-request-id-headers",
    )
    tokenizer_info_endpoint: bool = flag(
        boolean,
        "serve /tokenizer_info: special tokens and the chat template",
        False,
        flag="--enable-tokenizer-info-endpoint",
    )
    server_dev_mode: bool = flag(
        boolean,
        "serve what only tests and benchmarks need: POST /reset_prefix_cache",
        False,
        flag="--enable-server-dev-mode",
        environment=("VLLM_SERVER_DEV_MODE",),
        default="$VLLM_SERVER_DEV_MODE, else off",
        vllm="",
    )
    vllm_metrics: bool = flag(
        boolean,
        "metrics under vLLM's names too, for dashboards that know them",
        False,
        flag="--enable-vllm-metrics",
        vllm="",
    )
    max_request_bytes: int = flag(
        integer(1), "refuse larger request bodies", 8 * 1024 * 1024, metavar="N", default="8 MiB", vllm=""
    )
    shutdown_timeout: float = flag(
        _seconds,
        "how long running requests may go on after SIGTERM",
        30.0,
        metavar="SECONDS",
        default="30",
        vllm="0",
    )


def api_key_from_environment() -> str | None:
    """The key that a server started in this environment demands, and its clients send."""
    return next((os.environ[name] for name in API_KEY_VARIABLES if os.environ.get(name)), None)


def warn_of_empty_keys(settings: ServerSettings) -> None:
    """Say so where a variable that should hold the key is empty, which leaves the server open."""
    empty = [name for name in API_KEY_VARIABLES if os.environ.get(name) == ""]
    if empty and not settings.api_keys:
        logger.warning("%s is empty: requests need no key", " and ".join(empty))


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the server's flags, under vLLM's names where vLLM has them. None means not set by the user."""
    add_flags(parser.add_argument_group("HTTP server"), ServerSettings)


def server_settings(namespace: argparse.Namespace) -> ServerSettings:
    """Read the flags of `add_server_arguments`. Raises ConfigError for a value that cannot work."""
    settings = read_flags(namespace, ServerSettings)
    for name in ("ssl_keyfile", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers"):
        if getattr(settings, name) and not settings.ssl_certfile:
            raise ConfigError(f"--{name.replace('_', '-')} needs --ssl-certfile")
    if settings.ssl_cert_reqs and not settings.ssl_ca_certs:
        raise ConfigError(
            f"--ssl-cert-reqs {settings.ssl_cert_reqs} needs --ssl-ca-certs: what clients' certificates must "
            "be signed with"
        )
    return settings
