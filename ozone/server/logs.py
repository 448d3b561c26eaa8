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

if TYPE_CHECKING:
    from ozone.server.flags import ServerSettings

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


def start_server_logging(settings: ServerSettings) -> None:
    """Set up the loggers of Ozone and of uvicorn. Raises ConfigError where a config file cannot be used."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(times=True))
    for name in ("ozone", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
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
