"""Kinds of values: how a word of a command line, a JSON value or a Python value becomes one setting's value.

A kind is a function `(value, where) -> value`; `where` is the flag as the user knows it, for the error.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ozone.config.custom_ops import CUSTOM_OPS, custom_op_name
from ozone.config.schema import CompilationMode, CUDAGraphMode
from ozone.errors import ConfigError

Kind = Callable[[object, str], Any]
E = TypeVar("E", bound=enum.Enum)

_TRUE = {"true", "yes", "1"}
_FALSE = {"false", "no", "0"}
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+)(\.\d+)?\s*(?:([kKmMgGtT])([iI]?[bB])?|[bB])?")


# No setting is larger, and longer numbers cannot always be converted to text and back.
_LARGEST = 2**63 - 1
_LONGEST_SHOWN = 200
_DEEPEST = 64
# A text, whose brackets do not count, or a bracket.
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)


def _bad(where: str, value: object, good: str) -> ConfigError:
    shown = show(value) or "an empty word"
    shown = shown if len(shown) <= _LONGEST_SHOWN else shown[:_LONGEST_SHOWN] + "..."
    return ConfigError(f"{where}: {shown} is not {good}")


def show(value: object) -> str:
    """A value as it would be typed: enumerations by name, sequences with commas."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(show(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return json.dumps(plain(value))
    return str(value)


def plain(value: object) -> Any:
    """A value as JSON has it."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value


def from_json(text: str) -> Any:
    """JSON that a user wrote. ValueError where it is none, or where values lie in more than 64 others."""
    depth = 0
    for bracket in _BRACKET.findall(text):
        depth += 1 if bracket in "[{" else -1 if bracket in "]}" else 0
        if depth > _DEEPEST:
            raise ValueError(f"values are nested more than {_DEEPEST} deep")
    return json.loads(text)


def boolean(value: object, where: str) -> bool:
    """true/false/yes/no in any case, 1/0."""
    word = show(value).strip().lower()
    if isinstance(value, (bool, int, str)) and word in _TRUE | _FALSE:
        return word in _TRUE
    raise _bad(where, value, "a boolean; say true or false (or yes, no, 1, 0)")


def refuse_word_of_switch(flag: str, word: str) -> None:
    """An error where the word after a switch looks like its value, but would be taken for another's."""
    if word.lower() in ("true", "false"):
        raise ConfigError(f"{flag} {word}: a switch has its value in the same word, {flag}={word}")


def _integer(value: object, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (match := re.fullmatch(r"([+-]?)(\d+)", value.strip())):
        number = _from_digits(match[2], value, where)
        return -number if match[1] == "-" else number
    raise _bad(where, value, "an integer")


def _from_digits(digits: str, value: object, where: str) -> int:
    digits = digits.lstrip("0") or "0"
    if len(digits) > len(str(_LARGEST)):
        raise _bad(where, value, f"allowed; it must be at most {_LARGEST}")
    return int(digits)


def _within(number: int, value: object, where: str, minimum: int, maximum: int) -> int:
    if number < minimum:
        raise _bad(where, value, f"allowed; it must be at least {minimum}")
    if number > maximum:
        raise _bad(where, value, f"allowed; it must be at most {maximum}")
    return number


def integer(minimum: int, maximum: int = _LARGEST) -> Kind:
    """A whole number from `minimum` to `maximum`."""

    def kind(value: object, where: str) -> int:
        return _within(_integer(value, where), value, where, minimum, maximum)

    return kind


def _scaled(value: object, where: str, good: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise _bad(where, value, good)
    digits, fraction, unit, suffix = match.groups()
    factor = 1
    if unit is not None:
        # "k" is 1000 and "K" is 1024; a written-out unit says it itself: kB is 1000, KiB is 1024.
        binary = unit.isupper() if suffix is None else len(suffix) == 2
        factor = (1024 if binary else 1000) ** _POWERS[unit.lower()]
    whole = _from_digits(digits, value, where) * factor
    return whole + int(float(fraction) * factor) if fraction else whole


def human_integer(minimum: int, maximum: int = _LARGEST) -> Kind:
    """A count from `minimum` to `maximum` that may be written 8k (8000) or 8K (8192)."""

    def kind(value: object, where: str) -> int:
        number = _scaled(value, where, "a whole number such as 8192, 8k (8000) or 8K (8192)")
        return _within(number, value, where, minimum, maximum)

    return kind


def memory_size(value: object, where: str) -> int:
    """Bytes, written as a number or 2G, 512MiB, 1.5GB."""
    number = _scaled(value, where, "a size such as 2G, 512MiB or 2147483648")
    return _within(number, value, where, 1, _LARGEST)


def number(value: object, where: str) -> float:
    """A number greater than 0."""
    try:
        result = float(value) if isinstance(value, (int, float, str)) else float("nan")
    except (ValueError, OverflowError):
        result = float("nan")
    if isinstance(value, bool) or not 0 < result < float("inf"):
        raise _bad(where, value, "a number above 0")
    return result


def text(value: object, where: str) -> str:
    """Any text; a path object counts as its path."""
    if not isinstance(value, str) and not hasattr(value, "__fspath__"):
        raise _bad(where, value, "text")
    if not str(value).strip():
        raise ConfigError(f"{where}: a value is missing")
    return str(value)


def text_list(value: object, where: str) -> tuple[str, ...]:
    """JSON, or what a shell leaves of it (`[none]`), or words with commas between."""
    return tuple(text(item, where) for item in _items(value, where))


def integer_list(minimum: int, maximum: int = _LARGEST) -> Kind:
    """A list of whole numbers from `minimum` to `maximum`, in JSON or with commas between."""
    item = integer(minimum, maximum)

    def kind(value: object, where: str) -> tuple[int, ...]:
        values = [value] if isinstance(value, int) else _items(value, where)
        return tuple(item(one, where) for one in values)

    return kind


# What `compile_sizes` says for the sizes that are captured; vLLM's word.
CAPTURE_SIZES = "cudagraph_capture_sizes"


def compile_sizes(maximum: int) -> Kind:
    """A list of token counts from 1 to `maximum`, in which `CAPTURE_SIZES` may stand for those captured."""
    size = integer(1, maximum)

    def kind(value: object, where: str) -> tuple[int | str, ...]:
        items = [value] if isinstance(value, int) else _items(value, where)
        return tuple(one if one == CAPTURE_SIZES else size(one, where) for one in items)

    return kind


def _items(value: object, where: str) -> Sequence[object]:
    if isinstance(value, (list, tuple)):
        return value
    if not isinstance(value, str):
        raise _bad(where, value, "a list")
    stripped = value.strip()
    if stripped.startswith("["):
        try:
            loaded = from_json(stripped)
        except ValueError:
            if not stripped.endswith("]"):
                raise _bad(where, value, "a list; the closing bracket is missing") from None
            stripped = stripped[1:-1]
        else:
            return list(loaded)
    return [word.strip().strip("'\"") for word in stripped.split(",") if word.strip()]


def custom_ops(value: object, where: str) -> tuple[str, ...]:
    """A list of `all`, `none`, `+op`, `-op`."""
    words = text_list(value, where)
    for word in words:
        if word in ("all", "none"):
            continue
        if word[:1] not in ("+", "-") or custom_op_name(word[1:]) is None:
            names = ", ".join(CUSTOM_OPS)
            raise ConfigError(f"{where}: {word!r} is not all, none, +OP or -OP; the ops are {names}")
    if "all" in words and "none" in words:
        raise ConfigError(f"{where}: all and none exclude each other")
    for name in CUSTOM_OPS:
        signs = {word[0] for word in words if word[:1] in ("+", "-") and custom_op_name(word[1:]) == name}
        if len(signs) == 2:
            raise ConfigError(f"{where}: +{name} and -{name} exclude each other")
    return words


# Ops that are one node in every graph, and at which one can be split; vLLM's names for them.
SPLITTING_OPS = ("attention", "kv_write", "linear", "embedding", "logits")
_VLLM_OPS = {
    "unified_attention": "attention",
    "unified_attention_with_output": "attention",
    "unified_kv_cache_update": "kv_write",
}


def splitting_ops(value: object, where: str) -> tuple[str, ...]:
    """A list of ops; a namespace before a name, as in ``vllm::unified_attention``, says nothing more."""
    names = []
    for word in text_list(value, where):
        name = re.sub(r"^(vllm|ozone)(::|\.)", "", word)
        name = _VLLM_OPS.get(name, name)
        if name not in SPLITTING_OPS:
            raise _bad(where, word, "an op at which a graph can be split: " + ", ".join(SPLITTING_OPS))
        if name not in names:
            names.append(name)
    return tuple(names)


def mapping(value: object, where: str) -> dict[str, Any]:
    """A JSON object or a Python mapping."""
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    try:
        loaded = from_json(value) if isinstance(value, str) else None
    except ValueError:
        loaded = None
    if not isinstance(loaded, dict):
        raise _bad(where, value, 'a JSON object such as {"key": 1}')
    return loaded


def choice(*names: str, **aliases: str) -> Kind:
    """One of some words, in any case."""

    def kind(value: object, where: str) -> str:
        word = show(value).strip().lower()
        word = aliases.get(word, word)
        if word not in names:
            raise _bad(where, value, "one of " + ", ".join(filter(None, (*names, *aliases))))
        return word

    return kind


def integer_choice(*values: int) -> Kind:
    """One of some whole numbers."""

    def kind(value: object, where: str) -> int:
        good = "one of " + ", ".join(map(str, values))
        try:
            number = _integer(value, where)
        except ConfigError:
            raise _bad(where, value, good) from None
        if number not in values:
            raise _bad(where, value, good)
        return number

    return kind


def compilation_mode(value: object, where: str) -> CompilationMode:
    """A `CompilationMode` by name in any case or by number."""
    numbers: dict[int, CompilationMode] = {mode.value: mode for mode in CompilationMode}
    return _enumeration(value, where, CompilationMode, numbers)


def cudagraph_mode(value: object, where: str) -> CUDAGraphMode:
    """A `CUDAGraphMode` by name in any case; the three plain ones have numbers too."""
    numbers = {0: CUDAGraphMode.NONE, 1: CUDAGraphMode.PIECEWISE, 2: CUDAGraphMode.FULL}
    return _enumeration(value, where, CUDAGraphMode, numbers)


def _enumeration(value: object, where: str, cls: type[E], numbers: Mapping[int, E]) -> E:
    if isinstance(value, cls):
        return value
    word = show(value).strip().upper()
    if word in cls.__members__:
        return cls[word]
    by_digits = {str(n): member for n, member in numbers.items()}
    if not isinstance(value, bool) and word in by_digits:
        return by_digits[word]
    names = {member: str(n) for n, member in numbers.items()}
    good = ", ".join(f"{member.name} ({names[member]})" if member in names else member.name for member in cls)
    raise _bad(where, value, f"one of {good}")
