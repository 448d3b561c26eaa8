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

# Lists of a client's that are long are shown by their beginning.
_short = reprlib.Repr()
_short.maxlist = _short.maxdict = 8
_short.maxstring = _short.maxother = 100


def log_request(name: str, prompts: Sequence[list[int]], params: SamplingParams) -> None:
    """Sizes and the sampling parameters that are not the default, never the text."""
    lengths = _short.repr([len(prompt) for prompt in prompts])
    logger.info("%s: prompt tokens %s, %s", name, lengths, _changed(params))


def _changed(params: SamplingParams) -> str:
    plain = SamplingParams()
    changed = []
    for field in dataclasses.fields(params):
        value = getattr(params, field.name)
        if value not in (getattr(plain, field.name), None, [], {}):
            changed.append(f"{field.name}={_short.repr(value)}")
    return ", ".join(changed)


class OutputLog:
    """Gathers the completions of one request, and writes a line for each when it ends."""

    def __init__(self, name: str, settings: ServerSettings) -> None:
        self._name = name
        self._most = settings.max_log_len
        self._texts: dict[tuple[int, int], str] = {}

    def add(self, arrivals: Sequence[Arrival]) -> None:
        for _, prompt, delta, _ in arrivals:
            key = prompt, delta.index
            text = self._texts.get(key, "") + delta.text
            self._texts[key] = text if self._most is None else text[: self._most]
            if delta.finish_reason is not None:
                output = self._texts.pop(key)
                logger.info(
                    "%s: output %d of prompt %d: %r, finish reason %s",
                    *(self._name, delta.index, prompt, output, delta.finish_reason),
                )
