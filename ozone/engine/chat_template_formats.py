"""Python's two ways to format strings, for chat templates: no field may be wider than 999 characters."""

from __future__ import annotations

import re
import string
from typing import Any

from jinja2.exceptions import SecurityError

from ozone.engine.chat_template_budget import Budget, quoted_length

MAX_FORMAT_CHARACTERS = 4096
MAX_TIME_FORMAT_CHARACTERS = 256
_FIELD_CHARACTERS = 2048  # what a field takes beside its value: width, precision, a long number

_PERCENT_OPTIONS = re.compile(r"[-#0 +]*(\*|\d*)(?:\.(\*|\d*))?[hlL]?")
_LONG_NUMBER = re.compile(r"\d{4}")
_LONG_TIME_FIELD = re.compile(r"%[^%a-zA-Z]*\d{3}")


def check_percent_format(budget: Budget, form: str, values: Any) -> None:
    """Charge for ``form % values``; SecurityError where a field is too wide."""
    _check_length(form)
    fields = 0
    at = form.find("%")
    while at >= 0:
        at = _after_key(form, at + 1)
        options = _PERCENT_OPTIONS.match(form, at)
        assert options is not None  # it matches nothing too
        for number in options.groups():
            if number is not None and (number == "*" or len(number) > 3):
                raise _too_wide()
        if form[options.end() : options.end() + 1] == "a":
            raise SecurityError("it formats with %a")
        fields += 1
        at = form.find("%", options.end() + 1)
    _charge_fields(budget, form, fields, values)


def check_brace_format(budget: Budget, form: str, values: Any) -> None:
    """Charge for ``form.format(...)`` of these values; SecurityError where a field is too wide."""
    _check_length(form)
    fields = 0
    for _, name, spec, conversion in string.Formatter().parse(form):
        if name is None:
            continue
        fields += 1
        if "{" in (spec or "") or _LONG_NUMBER.search(spec or ""):
            raise _too_wide()
        if conversion == "a":
            raise SecurityError("it formats with !a")
    _charge_fields(budget, form, fields, values)


def check_time_format(form: str) -> None:
    if not isinstance(form, str) or len(form) > MAX_TIME_FORMAT_CHARACTERS or _LONG_TIME_FIELD.search(form):
        raise SecurityError(
            f"it formats the time with more than {MAX_TIME_FORMAT_CHARACTERS} characters or a wide field"
        )


def _after_key(form: str, at: int) -> int:
    """The place after the ``(key)`` at this place, which may hold parentheses itself."""
    if not form.startswith("(", at):
        return at
    depth = 0
    for place in range(at, len(form)):
        depth += {"(": 1, ")": -1}.get(form[place], 0)
        if not depth:
            return place + 1
    return len(form)


def _check_length(form: str) -> None:
    if len(form) > MAX_FORMAT_CHARACTERS:
        raise SecurityError(f"it formats with a string of more than {MAX_FORMAT_CHARACTERS} characters")


def _charge_fields(budget: Budget, form: str, fields: int, values: Any) -> None:
    if fields:
        budget.charge(len(form) + fields * _FIELD_CHARACTERS)
        cost = budget.walk(values, quoted_length)
        budget.charge((fields - 1) * cost)  # every field might print all


def _too_wide() -> SecurityError:
    return SecurityError("it formats a field of a thousand characters or more")
