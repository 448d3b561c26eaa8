"""One line in the log for each request field that nothing reads: a typo must leave a trace."""

from __future__ import annotations

import difflib
import logging
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from ozone.errors import escaped
from ozone.server.unsupported_fields import UNSUPPORTED

logger = logging.getLogger(__name__)

_MOST_NAMES = 256
_LONGEST_NAME = 64

# What clients send that asks for nothing in the answer, or tells of the past.
# fmt: off
HARMLESS = frozenset(
    {
        "user", "store", "metadata", "service_tier", "prediction", "safety_identifier",
        "prompt_cache_key", "prompt_cache_retention", "parallel_tool_calls", "session_id",
        "return_token_offsets", "mm_payload", "return_mm_kwargs", "cache_prompt",
        "stream_reasoning", "include_obfuscation", "routed_experts_prompt_start",
    }
)
# Fields of a message that chat templates read.
OF_MESSAGES = frozenset(
    {
        "name", "tool_calls", "tool_call_id", "refusal", "audio", "function_call", "annotations",
        "reasoning", "reasoning_content", "thinking", "tools",
    }
)
# fmt: on
_EXPECTED = HARMLESS | UNSUPPORTED.keys()


class IgnoredFields:
    """Remembers which names were told of. Thread-safe."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def note(self, where: str, names: Iterable[str], known: Iterable[str]) -> None:
        """Tell of those names that were not told of before. known: the fields that are read there."""
        for name in names:
            key = f"{where}{name[:_LONGEST_NAME]}"
            with self._lock:
                count = len(self._told)
                if count > _MOST_NAMES:
                    return
                if key in self._told:
                    continue
                self._told.add(key)
            if count == _MOST_NAMES:
                logger.warning("more request fields are ignored; no further ones are named here")
                return
            nearest = difflib.get_close_matches(name[:_LONGEST_NAME], sorted(known), n=1, cutoff=0.75)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            logger.warning("a request field is ignored: %s%s%s", where, escaped(name, _LONGEST_NAME), hint)


_ignored = IgnoredFields()


def note_ignored(fields: Mapping[str, Any] | None, known: Iterable[str], where: str = "") -> None:
    """Tell, once for each name, of fields that were given and are neither read nor refused.

    Args:
        fields: what was given besides the known fields; null asks for nothing.
        known: the fields that are read. where: a prefix, such as ``messages.``.
    """
    if fields:
        names = [name for name, value in fields.items() if value is not None and name not in _EXPECTED]
        _ignored.note(where, names, known)
