"""The server's own flags, resolved into `ServerSettings`, and `ServerState`: all that an app serves from.

Nothing here imports FastAPI, so that a command line can show its help quickly.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ozone.errors import ConfigError
from ozone.server.interfaces import EngineClient, ServerChatTemplate, ServerTokenizer

API_KEY_VARIABLE = "OZONE_API_KEY"
LOG_LEVELS = ("debug", "info", "warning", "error", "critical", "trace")


@dataclass(frozen=True)
class ServerSettings:
    """How the HTTP server listens, whom it answers and what it refuses.

    Attributes:
        host, port: where to listen; port 0 lets the system choose a free one.
        api_keys: any of them opens the server; none leaves it open to all.
        allowed_origins, allowed_methods, allowed_headers, allow_credentials: CORS; no origins, no CORS.
        root_path: the path under which a proxy publishes the server.
        max_request_bytes: larger request bodies are refused with 413.
        shutdown_timeout: seconds that running requests get after SIGTERM.
        log_requests: log id, sizes and sampling parameters of every request, never its text.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allowed_methods: tuple[str, ...] = ("*",)
    allowed_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False
    root_path: str = ""
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    uvicorn_log_level: str = "warning"
    access_log: bool = True
    log_requests: bool = False
    docs: bool = True
    max_request_bytes: int = 8 * 1024 * 1024
    shutdown_timeout: float = 30.0


@dataclass
class ServerState:
    """Everything an app serves from.

    Attributes:
        engine: started by the caller; `run_server` drains it and shuts it down.
        chat_template: None where the model has none: chat requests are then refused with a hint.
        model_names: the names a request may call the model by; answers carry the first.
        max_model_len: tokens of prompt and completion together.
        max_waiting_requests: length of the engine's bounded queue, so that what cannot fit is refused before
            any work is spent on it; None leaves that to the engine.
        default_sampling_params: the model's own defaults under `SamplingParams`' names, for fields
            that a request leaves unset.
        startup_report: called for `/startup`; returns what can be written as JSON.
    """

    engine: EngineClient
    tokenizer: ServerTokenizer
    model_names: tuple[str, ...]
    max_model_len: int
    max_waiting_requests: int | None = None
    chat_template: ServerChatTemplate | None = None
    default_sampling_params: Mapping[str, Any] = field(default_factory=dict)
    startup_report: Callable[[], Mapping[str, Any]] = dict
    settings: ServerSettings = field(default_factory=ServerSettings)
    draining: bool = False


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the server's flags, under vLLM's names where vLLM has them. None means not set by the user."""
    group = parser.add_argument_group("HTTP server")
    add = group.add_argument
    add("--host", help="address to listen on; 0.0.0.0 for every interface (default: 127.0.0.1)")
    add("--port", type=int, help="port to listen on; 0 for any free one, which is printed (default: 8000)")
    add(
        "--api-key",
        nargs="+",
        action="extend",
        metavar="KEY",
        help=f"demand one of these keys as a Bearer token, /health excepted; may be given again "
        f"(default: ${API_KEY_VARIABLE}, else open)",
    )
    add(
        "--allowed-origins",
        metavar="JSON",
        help="CORS origins, such as '[\"https://a.example\"]' (default: none)",
    )
    add("--allowed-methods", metavar="JSON", help="CORS methods (default: all)")
    add("--allowed-headers", metavar="JSON", help="CORS headers (default: all)")
    add("--allow-credentials", action="store_true", default=None, help="let CORS requests carry credentials")
    add("--root-path", help="path under which a proxy publishes this server")
    add("--ssl-keyfile", metavar="FILE", help="private key for HTTPS")
    add("--ssl-certfile", metavar="FILE", help="certificate for HTTPS")
    add(
        "--uvicorn-log-level",
        choices=LOG_LEVELS,
        help="what uvicorn logs; requests at info (default: warning)",
    )
    add(
        "--disable-uvicorn-access-log",
        action="store_true",
        default=None,
        help="no line per HTTP request, whatever the log level",
    )
    add(
        "--enable-log-requests",
        dest="log_requests",
        action="store_true",
        default=None,
        help="log sizes and sampling parameters of every request, never its text",
    )
    add("--disable-log-requests", dest="log_requests", action="store_false", help="no such log (the default)")
    add(
        "--disable-fastapi-docs", action="store_true", default=None, help="no /docs, /redoc and /openapi.json"
    )
    add("--max-request-bytes", type=int, metavar="N", help="refuse larger request bodies (default: 8 MiB)")
    add(
        "--shutdown-timeout",
        type=float,
        metavar="SECONDS",
        help="how long running requests may go on after SIGTERM (default: 30)",
    )


def server_settings(namespace: argparse.Namespace) -> ServerSettings:
    """Read the flags of `add_server_arguments`. Raises ConfigError for a value that cannot work."""
    chosen: dict[str, Any] = {}

    def take(name: str, flag: str, convert: Callable[[Any], Any] = lambda value: value) -> None:
        value = getattr(namespace, flag, None)
        if value is not None:
            chosen[name] = convert(value)

    for name in ("host", "port", "root_path", "ssl_keyfile", "ssl_certfile", "uvicorn_log_level"):
        take(name, name)
    for name in ("log_requests", "allow_credentials", "max_request_bytes", "shutdown_timeout"):
        take(name, name)
    for name in ("allowed_origins", "allowed_methods", "allowed_headers"):
        take(name, name, functools.partial(_names, name))
    take("access_log", "disable_uvicorn_access_log", lambda value: not value)
    take("docs", "disable_fastapi_docs", lambda value: not value)
    take("api_keys", "api_key", lambda value: tuple(value) if isinstance(value, list) else (value,))
    if "api_keys" not in chosen and os.environ.get(API_KEY_VARIABLE):
        chosen["api_keys"] = (os.environ[API_KEY_VARIABLE],)
    settings = ServerSettings(**chosen)
    _check(settings)
    return settings


def _names(name: str, value: str) -> tuple[str, ...]:
    """A JSON list of strings, or one bare string."""
    if not value.lstrip().startswith("["):
        return (value,)
    try:
        names = json.loads(value)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        flag = "--" + name.replace("_", "-")
        raise ConfigError(f"{flag} {value}: expected a JSON list of strings, such as '[\"*\"]'")
    return tuple(names)


def _check(settings: ServerSettings) -> None:
    if not 0 <= settings.port <= 65535:
        raise ConfigError(f"--port {settings.port}: a port is 0 (any free one) to 65535")
    if not all(key.isascii() and key.isprintable() and key.strip() for key in settings.api_keys):
        raise ConfigError("--api-key: a key is one or more printable ASCII characters")
    if settings.max_request_bytes < 1:
        raise ConfigError(f"--max-request-bytes {settings.max_request_bytes}: must be at least 1")
    if not 0 <= settings.shutdown_timeout <= threading.TIMEOUT_MAX:
        most = f"{threading.TIMEOUT_MAX:.0f}"
        raise ConfigError(f"--shutdown-timeout {settings.shutdown_timeout}: must be 0 to {most} seconds")
    if settings.root_path and not settings.root_path.startswith("/"):
        raise ConfigError(f"--root-path {settings.root_path}: must start with /")
    if settings.ssl_keyfile and not settings.ssl_certfile:
        raise ConfigError("--ssl-keyfile needs --ssl-certfile")
    for flag, file in (("--ssl-keyfile", settings.ssl_keyfile), ("--ssl-certfile", settings.ssl_certfile)):
        if file and not Path(file).is_file():
            raise ConfigError(f"{flag} {file}: no such file")
