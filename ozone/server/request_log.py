"""Log lines about single requests: what was asked for (`--enable-log-requests`), and what was answered."""

from __future__ import annotations

import dataclasses
import logging
import reprlib
from collections.abc import Sequence

from ozone.engine.sampling_params import SamplingParams
from ozone.server.flags import ServerSettings
from ozone.server.generation import Arrival

logger = logging.getLogger(__name__)

_MOST_ENTRIES = 8
_short = reprlib.Repr()
_short.maxlist = _short.maxdict = _MOST_ENTRIES
_short.maxstring = _short.maxother = 100


def log_request(name: str, prompts: Sequence[list[int]], params: SamplingParams) -> None:
    """Sizes and the sampling parameters that are not the default, never the text."""
    lengths = _short.repr([len(prompt) for prompt in prompts[: _MOST_ENTRIES + 1]])
    logger.info("%s: prompt tokens %s, %s", name, lengths, _changed(params))


def _changed(params: SamplingParams) -> str:
    plain = SamplingParams()
    changed = []
    for field in dataclasses.fields(params):
        value = getattr(params, field.name)
        if value not in (getattr(plain, field.name), None, [], {}):
            changed.append(f"{field.name}={_shown(value)}")
    return ", ".join(changed)


def _shown(value: object) -> str:
    """A value on one line. Of much, only how much it is: a client may send a million entries."""
    if isinstance(value, list | dict | set | tuple) and len(value) > _MOST_ENTRIES:
        return f"<{len(value)} entries>"
    return _short.repr(value)


class OutputLog:
    """Gathers the completions of one request, and writes a line for each when it ends."""

    def __init__(self, name: str, settings: ServerSettings) -> None:
        self._name = name
        self._most = settings.max_log_len
        self._pieces: dict[tuple[int, int], list[str]] = {}

    def add(self, arrivals: Sequence[Arrival]) -> None:
        for _, prompt, delta, _ in arrivals:
            key = prompt, delta.index
            self._pieces.setdefault(key, []).append(delta.text)
            if delta.finish_reason is not None:
                output = "".join(self._pieces.pop(key))[: self._most]
                logger.info(
                    "%s: output %d of prompt %d: %r, finish reason %s",
                    *(self._name, delta.index, prompt, output, delta.finish_reason),
                )
