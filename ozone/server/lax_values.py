"""Numbers and switches of a request as vLLM takes them: also in quotes, as some clients send them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

_INTEGER = r"^[+-]?[0-9]{1,18}$"
_NUMBER = r"^[+-]?[0-9]{1,18}(\.[0-9]{0,18})?([eE][+-]?[0-9]{1,3})?$"
_TRUE, _FALSE = (
    tuple(itertools.chain.from_iterable((word, word.title(), word.upper()) for word in words))
    for words in (("true", "yes", "on", "y", "t", "1"), ("false", "no", "off", "n", "f", "0"))
)
_MOST = 1 << 63  # Beyond, a float is no count of anything.

# What the fields take, as the schema says it.
IntegerText = Annotated[str, Field(pattern=_INTEGER)]
IntegerInput = int | IntegerText
NumberInput = float | Annotated[str, Field(pattern=_NUMBER)]
BooleanInput = bool | Literal[0, 1] | Literal[_TRUE + _FALSE]  # type: ignore[valid-type]


def integer(value: Any) -> Any:
    """An int where a text or a float is a whole number, else the value as it is."""
    if isinstance(value, str) and re.match(_INTEGER, value):
        return int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < _MOST:
        return int(value)
    return value


def number(value: Any) -> Any:
    """A float where a text is a number, else the value as it is."""
    return float(value) if isinstance(value, str) and re.match(_NUMBER, value) else value


def boolean(value: Any) -> Any:
    """A bool where a text or a number stands for one, else the value as it is."""
    if isinstance(value, str) and value in _TRUE + _FALSE:
        return value in _TRUE
    return bool(value) if type(value) in (int, float) and value in (0, 1) else value


def unless_null(default: Any, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A validator for fields that may be null, which means what leaving them out does."""
    return lambda value: default if value is None else convert(value)


Integer = Annotated[int, BeforeValidator(integer, IntegerInput)]
Number = Annotated[float, BeforeValidator(number, NumberInput)]
Boolean = Annotated[bool, BeforeValidator(boolean, BooleanInput)]
Zero = Annotated[int, BeforeValidator(unless_null(0, integer), IntegerInput | None)]
Off = Annotated[bool, BeforeValidator(unless_null(False, boolean), BooleanInput | None)]
On = Annotated[bool, BeforeValidator(unless_null(True, boolean), BooleanInput | None)]
