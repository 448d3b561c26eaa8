"""Why requests were refused, one log line each, and only so many of them."""

from __future__ import annotations

import logging

from starlette.types import Scope

from ozone.errors import RequestError, escaped
from ozone.server.paths import OPEN_PATHS, route_path
from ozone.server.rate_limit import RateLimit
from ozone.server.request_ids import known_name

logger = logging.getLogger(__name__)

# Some lines at once, then a few a second: a client that only errs does not fill a disk.
_BURST = 20
_LINES_PER_SECOND = 2.0
_LONGEST_REASON = 500
_LONGEST_PATH = 100


_limit = RateLimit(_BURST, _LINES_PER_SECOND)


def log_refusal(scope: Scope, error: RequestError) -> None:
    """One line for a request that gets an error for an answer."""
    if route_path(scope) in OPEN_PATHS:  # asked once a second by probes, which know why
        return
    dropped = _limit.take()
    if dropped is None:
        return
    if dropped:
        logger.info("%d more requests were refused", dropped)
    client = scope.get("client") or ("unknown",)
    name = known_name(scope)
    where = f"{scope['method']} {escaped(scope['path'], _LONGEST_PATH)}"
    who = f"from {escaped(str(client[0]), _LONGEST_PATH)}" + (f", request {name}" if name else "")
    logger.info("%d for %s %s: %s", error.status, where, who, escaped(str(error), _LONGEST_REASON))
