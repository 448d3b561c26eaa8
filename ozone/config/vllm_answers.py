"""What is done about an option of vLLM's that Ozone has not: nothing, one warning, or a refusal.

The names are in `vllm_options.py`, the reasons in `upstream.py`, values that ask for nothing in `neutral.py`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from ozone.config import values
from ozone.config.neutral import asks_for_nothing
from ozone.config.upstream import ACCEPTED_FLAGS, ACCEPTED_VALUES, REFUSED_FLAGS, refusal
from ozone.config.values import Kind, from_json, show
from ozone.config.vllm_options import OPTIONS, SWITCHES, find
from ozone.errors import ConfigError

# What scripts also pass to vLLM's `LLM`.
_SERVERS_LOG = frozenset({"disable_log_stats"})


def answer(name: str, value: object, spelled: str) -> str | None:
    """Why vLLM's option `name` changes nothing, as a warning's reason; None where `value` asks for nothing.

    `ConfigError` where it asks for something that Ozone has not, or where its value is none.
    """
    if name in _SERVERS_LOG:
        return None if asks_for_nothing(name, value) else "only `ozone serve` has such log lines"
    if name not in ACCEPTED_FLAGS and name not in REFUSED_FLAGS:
        raise ConfigError(f"{spelled} belongs to `ozone serve`: it has no meaning here")
    if asks_for_nothing(name, value):
        return None
    if name in ACCEPTED_FLAGS:
        _KINDS[OPTIONS[name].shape](value, spelled)
        words = ACCEPTED_VALUES.get(name)
        if words is None or show(value).strip().lower() in words.split():
            return ACCEPTED_FLAGS[name]
        raise ConfigError(refusal(f"{spelled} {show(value)}", "it knows " + ", ".join(words.split())))
    raise ConfigError(refusal(spelled, REFUSED_FLAGS[name]))


def answer_flag(
    flag: str, value: str | None, waiting: deque[str], is_flag: Callable[[str], bool]
) -> tuple[str, str] | None:
    """Answer the flag of a command line, taking the words of its value from `waiting`.

    Returns:
        The option and the reason for a warning, which is empty where it needs none; None where vLLM has no
        such flag.
    """
    found = find(flag)
    if found is None:
        return None
    name, on = found
    shape = OPTIONS[name].shape
    spelled = "--" + name.replace("_", "-")
    given: object
    words: list[str] = []
    if shape in SWITCHES:
        if value is None:
            values.refuse_word_of_switch(flag, waiting[0] if waiting else "")
        given = on == (value is None or values.boolean(value, flag))
        spelled = flag
    elif "." in flag:
        given = _next(value, waiting, is_flag)
        if not asks_for_nothing("", given):  # a part of an object, which is checked no further
            given = {flag.partition(".")[2]: given}
    elif shape == "words" and value is None:
        while waiting and not is_flag(waiting[0]):
            words.append(waiting.popleft())
        given = words
    else:
        given = _next(value, waiting, is_flag)
    return spelled, answer(name, given, spelled if name in ACCEPTED_FLAGS else flag) or ""


def _next(value: str | None, waiting: deque[str], is_flag: Callable[[str], bool]) -> object:
    """The value after `=`, or the next word; True, which asks for something, where there is none."""
    if value is not None:
        return value
    return waiting.popleft() if waiting and not is_flag(waiting[0]) else True


def _json(value: object, where: str) -> object:
    if isinstance(value, str):
        try:
            value = from_json(value)
        except ValueError:
            raise ConfigError(f"{where}: {show(value)} is not JSON") from None
    if isinstance(value, (Mapping, Sequence)) and not isinstance(value, str):
        return value
    raise ConfigError(f"{where}: {show(value)} is not a JSON object or list")


def _float(value: object, where: str) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise ConfigError(f"{where}: {show(value)} is not a number")
    return number


def _text(value: object, where: str) -> object:
    if value is True:
        raise ConfigError(f"{where}: a value is missing")
    return value


def _words(value: object, where: str) -> object:
    if value in (True, []):
        raise ConfigError(f"{where}: a value is missing")
    return value


def _present(kind: Kind) -> Kind:
    return lambda value, where: kind(_text(value, where), where)


_LARGEST = 2**63 - 1
_KINDS: dict[str, Kind] = {
    "switch": values.boolean,
    "flag": values.boolean,
    "int": _present(values.integer(-_LARGEST)),
    "size": _present(values.human_integer(0)),
    "float": _present(_float),
    "text": _text,
    "json": _present(_json),
    "words": _words,
    "optional": values.text,
}
