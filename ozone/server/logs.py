"""How log lines of a server look and which are written: times, levels, `--log-config-file`, access lines.

Imports no web framework. Every text of a request in a line is escaped here, so that it stays one line.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ozone.errors import ConfigError, escaped
from ozone.server.rate_limit import RateLimit

if TYPE_CHECKING:
    from ozone.server.flags import ServerSettings

# Of what repeats: some lines at once, then one in five seconds.
_BURST, _LINES_PER_SECOND = 10, 0.2
_TIME = "%Y-%m-%d %H:%M:%S"


class LineFormatter(logging.Formatter):
    """``ozone: text``, with the level where it is above INFO; a server's lines begin with a time."""

    def __init__(self, *, times: bool) -> None:
        super().__init__()
        self._times = times

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return escaped(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)  # what follows the message, such as a traceback, has lines of its own
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        time = f"{self.formatTime(record, _TIME)}.{record.msecs:03.0f} " if self._times else ""
        return f"{time}ozone: {level}{text}"


class _NotThesePaths(logging.Filter):
    """Drops uvicorn's access lines of some paths, with and without the root path."""

    def __init__(self, paths: tuple[str, ...], root_path: str) -> None:
        super().__init__()
        self._paths = {prefix + path for path in paths for prefix in {"", root_path}}

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args
        if not isinstance(arguments, tuple) or len(arguments) < 3:
            return True
        return str(arguments[2]).partition("?")[0] not in self._paths


class _OnlySoMany(logging.Filter):
    """Lets some lines pass at once and then one every few seconds, which says how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._limit = RateLimit(_BURST, _LINES_PER_SECOND)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        dropped = self._limit.take()
        if dropped:
            record.msg, record.args = f"{record.getMessage()} (and {dropped} more such lines before)", ()
        return dropped is not None


def start_server_logging(settings: ServerSettings) -> None:
    """Set up the loggers of Ozone and of uvicorn. Raises ConfigError where a config file cannot be used."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(times=True))
    for name in ("ozone", "uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    # What they warn of, any client can cause: bytes that are not HTTP, connections beyond the limit.
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(_OnlySoMany())
    logging.getLogger("ozone").setLevel(settings.log_level.upper())
    if settings.log_config_file is not None:
        _apply(settings.log_config_file)
    if settings.quiet_paths:
        hide = _NotThesePaths(settings.quiet_paths, settings.root_path)
        logging.getLogger("uvicorn.access").addFilter(hide)


def _apply(file: str) -> None:
    """Configure logging as a JSON file says, in the format of `logging.config.dictConfig`."""
    import logging.config  # slow, and rarely asked for

    try:
        config: Mapping[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
        # Without a word about it, Python switches off the loggers that exist already: ours.
        logging.config.dictConfig({"disable_existing_loggers": False, **config})
    except (OSError, ValueError, TypeError, AttributeError, ImportError, RecursionError) as error:
        cause = error.__cause__ or error
        raise ConfigError(f"--log-config-file {file}: {' '.join(str(cause).split())}") from None
