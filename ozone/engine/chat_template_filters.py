"""The filters and string methods that chat templates have: those that they need, each with its price.

Everything else does not exist. A price is charged before the work is done, from sizes that are known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from typing import Any

from jinja2 import Environment
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS as DEFAULT_FILTERS
from jinja2.filters import make_attrgetter
from markupsafe import escape

from ozone.engine.chat_template_budget import OBJECT, Budget, quoted_length
from ozone.engine.chat_template_formats import check_percent_format

MAX_INDENT = 16  # characters; also the most of a separator in JSON
MAX_STRIPPED = 256  # different characters to strip
MAX_NUMBER_TEXT = 4096
MAX_PRECISION = 32
_WORD = re.compile(r"\S+")
_LINE = re.compile("\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")

# Jinja's own, which do no more work than their value and result are large.
_AS_THEY_ARE = ("abs", "attr", "count", "d", "default", "first", "last", "length")
_OF_EACH = ("map", "reject", "rejectattr", "select", "selectattr")
_COMPARING = ("max", "min", "sort", "unique")

# By type, what a template may ask of a value.
_STRING_ATTRIBUTES = (
    "capitalize", "casefold", "count", "endswith", "find", "format", "index", "isalnum", "isalpha", "isascii",
    "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower",
    "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition",
    "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
)  # fmt: skip
ATTRIBUTES: dict[type, frozenset[str]] = {
    str: frozenset(_STRING_ATTRIBUTES),
    list: frozenset(["copy", "count", "index"]),
    tuple: frozenset(["count", "index"]),
    dict: frozenset(["copy", "get", "items", "keys", "values"]),
}


def chat_template_filters(environment: Environment, budget: Budget) -> dict[str, Callable[..., Any]]:
    """The filters by name."""
    own = _Filters(environment, budget)
    filters: dict[str, Callable[..., Any]] = {name: DEFAULT_FILTERS[name] for name in _AS_THEY_ARE}
    for name in _OF_EACH:
        filters[name] = _prepared(DEFAULT_FILTERS[name], lambda value, _: budget.collect(value or ()))
    for name in _COMPARING:
        filters[name] = _prepared(DEFAULT_FILTERS[name], own.sortable)
    filters["dictsort"] = _prepared(DEFAULT_FILTERS["dictsort"], own.sortable_dict)
    for name in ("capitalize", "lower", "string", "safe", "upper"):
        filters[name] = partial(own.changed_text, getattr(str, name, str))
    for name in ("e", "escape", "forceescape"):
        filters[name] = own.escape
    filters |= {
        "float": own.to_float,
        "format": own.format_percent,
        "indent": own.indent,
        "int": own.to_int,
        "items": DEFAULT_FILTERS["items"],
        "join": own.join,
        "list": lambda value: list(budget.collect(value)),
        "replace": own.replace,
        "reverse": DEFAULT_FILTERS["reverse"],
        "round": own.round_number,
        "sum": own.add_up,
        "title": own.title,
        "tojson": own.tojson,
        "trim": own.trim,
    }
    return {name: _metered(budget, function) for name, function in filters.items()}


def _value_place(function: Callable[..., Any]) -> int:
    """Filters that ask for the context, the environment or such get it before the value."""
    return 1 if hasattr(function, "jinja_pass_arg") else 0


def _prepared(function: Callable[..., Any], prepare: Callable[..., Any]) -> Callable[..., Any]:
    place = _value_place(function)

    @wraps(function)
    def prepared(*args: Any, **kwargs: Any) -> Any:
        value = prepare(args[place], (*args[place + 1 :], *kwargs.values()))
        return function(*args[:place], value, *args[place + 1 :], **kwargs)

    return prepared


def _metered(budget: Budget, function: Callable[..., Any]) -> Callable[..., Any]:
    place = _value_place(function)

    def metered(*args: Any, **kwargs: Any) -> Any:
        budget.tick()
        for argument in (*args[place + 1 :], *kwargs.values()):
            budget.comparable(argument)
        result = function(*args, **kwargs)
        return result if result is args[place] else budget.result(result)

    if place:
        metered.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return metered


class _Filters:
    """The filters that are not Jinja's own."""

    def __init__(self, environment: Environment, budget: Budget) -> None:
        self._environment = environment
        self._budget = budget

    def sortable(self, value: Any, options: Iterable[Any]) -> list[Any]:
        items = self._budget.collect(value)
        attributes = max((option.count(",") for option in options if isinstance(option, str)), default=0)
        for _ in range(attributes + 1):  # each attribute makes a key of its own
            self._budget.walk(items, len, any_type=True)
        return items

    def sortable_dict(self, value: Mapping[Any, Any], _: Iterable[Any]) -> Mapping[Any, Any]:
        self._budget.walk(value, len, any_type=True)
        return value

    def changed_text(self, change: Callable[[str], str], value: Any) -> str:
        return change(self._budget.text(value))

    def title(self, value: Any) -> str:
        text = self._budget.text(value)
        self._budget.charge(OBJECT * len(text) // 2)  # every other character may be a word
        title: str = DEFAULT_FILTERS["title"](text)
        return title

    def escape(self, value: Any) -> str:
        text = self._budget.text(value)
        self._budget.charge(5 * len(text))
        return str(escape(text))

    def trim(self, value: Any, chars: str | None = None) -> str:
        return strip(str.strip, self._budget.text(value), chars)

    def format_percent(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if args and kwargs:
            raise SecurityError("it formats positional and named values at once")
        form, values = self._budget.text(value), kwargs or args
        check_percent_format(self._budget, form, values)
        return form % values

    def indent(self, value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = self._budget.text(value)
        if (width if isinstance(width, int) else len(width)) > MAX_INDENT:
            raise SecurityError(f"it indents by more than {MAX_INDENT} characters")
        self._budget.charge(len(text))
        for _ in _LINE.finditer(text):
            self._budget.tick()
            self._budget.charge(OBJECT + MAX_INDENT)
        indented: str = DEFAULT_FILTERS["indent"](text, width, first, blank)
        return indented

    def replace(self, value: Any, old: Any, new: Any, count: int | None = None) -> str:
        text = self._budget.text(value)
        old, new = self._budget.text(old), self._budget.text(new)
        return replace(self._budget, text, old, new, -1 if count is None else count)

    def join(self, value: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
        items = self._budget.collect(value)
        if attribute is not None:
            items = self._budget.collect(map(make_attrgetter(self._environment, attribute), items))
        return join(self._budget, self._budget.text(d), items)

    def add_up(self, value: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
        """Of numbers: a sum of lists is a list, built anew for each."""
        number = make_attrgetter(self._environment, attribute)
        total = _number(start)
        for item in self._budget.collect(value):
            self._budget.tick()
            total += _number(number(item))
        return total

    def to_int(self, value: Any, default: Any = 0, base: int = 10) -> Any:
        return DEFAULT_FILTERS["int"](_short(value), default, base)

    def to_float(self, value: Any, default: Any = 0.0) -> Any:
        return DEFAULT_FILTERS["float"](_short(value), default)

    def round_number(self, value: Any, precision: int = 0, method: str = "common") -> Any:
        if not -MAX_PRECISION <= precision <= MAX_PRECISION:
            raise SecurityError(f"it rounds to more than {MAX_PRECISION} digits")
        return DEFAULT_FILTERS["round"](value, precision, method)

    def tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        """JSON as it is written, without the escapes for HTML that Jinja's own filter adds."""
        width = len(indent) if isinstance(indent, str) else indent or 0
        if width > MAX_INDENT:
            raise SecurityError(f"it indents JSON by more than {MAX_INDENT} characters")
        if separators is not None and any(len(separator) > MAX_INDENT for separator in separators):
            raise SecurityError(f"it separates JSON by more than {MAX_INDENT} characters")
        cost_of = _escaped_length if ensure_ascii else quoted_length
        each = 8 + (MAX_INDENT if separators is not None else 0)
        self._budget.walk(value, cost_of, each=each, level=max(width, 0))
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )


def _escaped_length(text: str) -> int:
    return quoted_length(text) if text.isascii() else 12 * len(text)


def _number(value: Any) -> Any:
    if not isinstance(value, (int, float)):
        raise SecurityError(f"it adds up values of type {type(value).__name__}, not numbers")
    return value


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_NUMBER_TEXT:
        raise SecurityError(f"it reads a number of more than {MAX_NUMBER_TEXT} characters")
    return value


def call_string_method(budget: Budget, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a bound method of a string, which is one of `ATTRIBUTES`."""
    text, name = str(method.__self__), method.__name__  # type: ignore[attr-defined]
    if (own := _STRING_METHODS.get(name)) is not None:
        return own(budget, text, *args, **kwargs)
    if args and isinstance(args[0], str) and name in _SEARCHING:
        _charge_search(budget, text, args[0])
    return method(*args, **kwargs)


def join(budget: Budget, separator: str, items: Iterable[Any], *, only_text: bool = False) -> str:
    found = budget.collect(items)
    budget.charge(len(separator) * len(found))
    for item in found:
        budget.tick()
        if isinstance(item, str):
            budget.charge(len(item))
    return separator.join(found if only_text else [budget.text(item) for item in found])


def replace(budget: Budget, text: str, old: str, new: str, count: int = -1) -> str:
    _charge_search(budget, text, old)
    found = text.count(old)
    budget.charge(len(text) + (found if count < 0 else min(found, count)) * len(new))
    return text.replace(old, new, count)


def strip(how: Callable[..., str], text: str, characters: str | None = None) -> str:
    if characters is not None and len(characters) > MAX_STRIPPED:
        raise SecurityError(f"it strips more than {MAX_STRIPPED} different characters")
    return how(text, characters)


def _split(
    budget: Budget, how: Callable[..., list[str]], text: str, sep: str | None = None, maxsplit: int = -1
) -> list[str]:
    if sep is None:
        _charge_matches(budget, _WORD, text)
    else:
        _charge_search(budget, text, sep)
        found = text.count(sep)
        budget.charge(len(text) + OBJECT * (found if maxsplit < 0 else min(found, maxsplit)))
    return how(text, sep, maxsplit)


def _splitlines(budget: Budget, text: str, keepends: bool = False) -> list[str]:
    _charge_matches(budget, _LINE, text)
    return text.splitlines(keepends)


def _charge_matches(budget: Budget, pattern: re.Pattern[str], text: str) -> None:
    budget.charge(len(text))
    for _ in pattern.finditer(text):
        budget.tick()
        budget.charge(OBJECT)


def _charge_search(budget: Budget, text: str, wanted: str) -> None:
    """A search compares every character with every other where both are made for it."""
    budget.charge(len(text) * len(wanted) // 16)


_SEARCHING = {"count", "find", "index", "partition", "rfind", "rindex", "rpartition"}
_STRING_METHODS: dict[str, Callable[..., Any]] = {
    "join": partial(join, only_text=True),
    "replace": replace,
    "split": lambda budget, *args, **kwargs: _split(budget, str.split, *args, **kwargs),
    "rsplit": lambda budget, *args, **kwargs: _split(budget, str.rsplit, *args, **kwargs),
    "splitlines": _splitlines,
    "strip": lambda _, *args: strip(str.strip, *args),
    "lstrip": lambda _, *args: strip(str.lstrip, *args),
    "rstrip": lambda _, *args: strip(str.rstrip, *args),
}
