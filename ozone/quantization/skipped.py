"""Lists of modules that a tool left unquantized."""

from __future__ import annotations

from ozone.errors import shown
from ozone.weights.fields import Fields


def skipped_modules(fields: Fields, *keys: str) -> list[str]:
    """The names under the first of `keys` that is there. `ModelFileError` unless it is a list of texts."""
    for key in keys:
        names = fields.values.get(key)
        if names is None:
            continue
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise fields.fail(key, f"is {shown(names)}, not a list of names")
        return names
    return []


def is_skipped(name: str, skipped: list[str]) -> bool:
    """Whether the linear `name` is, is in, or ends with the name of one of these modules."""
    dotted = f".{name}."
    return any(f".{module}." in dotted for module in skipped)
