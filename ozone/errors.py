"""Errors that a user can mend.

An `OzoneError` is somebody's mistake or somebody's damaged file, never a bug of ours: it carries one
line that says what is wrong, where, and what would be right. Command lines print that line and exit 2,
the server answers 4xx. Everything else that is raised is a bug and keeps its traceback. Those about values
are a `ValueError` too, as Python callers expect.
"""

from __future__ import annotations

import re
import reprlib

# Control characters but for tabs and line feeds, and marks that change the direction of writing.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class OzoneError(Exception):
    """A mistake that its message explains in one line."""


class ConfigError(OzoneError, ValueError):
    """A flag, keyword argument or config key with a wrong name or value."""


class CompileError(OzoneError):
    """A model that cannot be compiled as the settings ask. Its cause may be a mistake of ours."""


class ModelFileError(OzoneError, ValueError):
    """A model that is missing, damaged, hostile or of a kind that Ozone does not run."""


class RequestError(OzoneError, ValueError):
    """A request that cannot be served as asked.

    `param` names the offending request field as OpenAI's errors do; `status` is the HTTP status.
    """

    def __init__(self, message: str, *, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.status = status


class QueueFullError(RequestError):
    """The bounded queue of waiting requests is full; the client should try again later."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=429)


def shown(value: object, limit: int = 80) -> str:
    """A value of unknown size as a message may hold it: quoted, on one line, at most `limit` characters."""
    if isinstance(value, list | dict | tuple):  # whose elements may be many, and long
        text = reprlib.repr(value)
    else:
        text = repr(value[: limit + 1] if isinstance(value, str | bytes) else value)
    return clipped(text.encode("ascii", "backslashreplace").decode(), limit)


def clipped(text: str, limit: int = 300) -> str:
    """Text of unknown size and content on one line: escaped, at most `limit` characters."""
    line = escaped(" ".join(text[: 4 * limit].split()))
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 3] + "..."


def escaped(text: str, most: int | None = None) -> str:
    """`text`, or its first `most` characters, with what a terminal would act on written out."""
    shown = text if most is None or len(text) <= most else text[:most] + "..."
    if shown.isprintable():
        return shown
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in shown
    )


def harmless(text: str) -> str:
    """Text of many lines as a terminal may get it: what would steer the terminal is written out."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
