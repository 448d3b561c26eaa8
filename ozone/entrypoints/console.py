"""How a program of ours speaks: log lines on stderr, a user's mistake as one line and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from ozone.errors import OzoneError, escaped

_INFO = 20  # logging.INFO: help that is printed quickly logs nothing, and does not import it


def start_logging(level: int = _INFO) -> None:
    """Send Ozone's log records to stderr, one line each; idempotent."""
    import logging

    from ozone.server.logs import LineFormatter

    logger = logging.getLogger("ozone")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(LineFormatter(times=False))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(level)


def run_program(main: Callable[[], int]) -> int:
    """Run `main` and turn how it ends into an exit code.

    A user's mistake prints one line and gives 2; an interrupt gives 130; a closed pipe ends quietly. A bug
    keeps its traceback.
    """
    try:
        return main()
    except OzoneError as error:
        print(f"ozone: error: {escaped(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python flushes stdout at exit; pointing it elsewhere avoids a second error there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
