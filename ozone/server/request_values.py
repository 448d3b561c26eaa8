"""Values of request fields that are more than a number or a switch: their limits, types and checks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from ozone.errors import shown
from ozone.server.lax_values import IntegerInput, IntegerText, integer, number, unless_null

MAX_PROMPTS = 2048
MAX_N = 128
MAX_MESSAGES = 16384
# Work per token grows with these, and they come from anybody.
MAX_STRINGS = 256
MAX_STRING_CHARACTERS = 16384


def _strings(value: Any) -> list[str]:
    """One string, some, or null for none, always as a list."""
    strings = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(strings, list) or not all(isinstance(item, str) for item in strings):
        raise ValueError("expected a string or a list of strings")
    if len(strings) > MAX_STRINGS or sum(map(len, strings)) > MAX_STRING_CHARACTERS:
        raise ValueError(
            f"at most {MAX_STRINGS} strings, together at most {MAX_STRING_CHARACTERS} characters"
        )
    return strings


def _is_token_ids(value: Any) -> bool:
    """Whether a JSON value is a list of integers, which bools are not."""
    return isinstance(value, list) and all(type(item) is int for item in value)


def _prompts(value: Any) -> list[str | list[int]]:
    """One prompt or many, texts or token ids, always as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if len(value) <= MAX_PROMPTS or type(value[0]) is int:
            if all(isinstance(item, str) for item in value):
                return value
            if _is_token_ids(value):
                return [value]
            if all(_is_token_ids(item) for item in value):
                return value
        else:
            raise ValueError(f"at most {MAX_PROMPTS} prompts in one request")
    raise ValueError("expected a text, a list of token ids, or a non-empty list of either")


def few_messages(value: Any) -> Any:
    """Refuse too many messages before one of them is looked at."""
    if isinstance(value, list) and len(value) > MAX_MESSAGES:
        raise ValueError(f"{len(value)} messages; at most {MAX_MESSAGES} make a conversation")
    return value


def _content(value: Any) -> Any:
    """A message's content; the chat template joins its parts, or reads them."""
    for part in value if isinstance(value, list) else []:
        if not isinstance(part, str | dict):
            raise ValueError("a part must be an object with a type")
        if isinstance(part, dict) and part.get("type") != "text":
            raise ValueError(f"parts of type {shown(part.get('type'))} are not supported, only 'text'")
        if isinstance(part, dict) and not isinstance(part.get("text"), str):
            raise ValueError("the text of a part must be a string")
    if value is None or isinstance(value, str | list):
        return value
    raise ValueError("expected a string or a list of parts")


def _tools(tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Tools as OpenAI writes them, so that templates can rely on their names."""
    for tool in tools or []:
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError("a tool must be an object with a function that has a name")
    return tools


def _integers(value: Any) -> Any:
    """A list of integers where some came in quotes, else the value as it is."""
    if not isinstance(value, list) or set(map(type, value)) <= {int}:
        return value
    return [integer(item) for item in value]


def _logit_bias(value: Any) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("expected an object of token ids and numbers")
    biases = {}
    for key, bias in value.items():
        if not (key.isascii() and key.isdecimal() and len(key) < 12):
            raise ValueError("the keys must be token ids")
        bias = number(bias)
        if type(bias) not in (int, float):
            raise ValueError("the values must be numbers")
        biases[int(key)] = float(bias)
    return biases


_Content = str | list[str | dict[str, Any]] | None
Strings = Annotated[list[str], PlainValidator(_strings, str | list[str] | None)]
Prompts = Annotated[
    list[str | list[int]], PlainValidator(_prompts, str | list[int] | list[str] | list[list[int]])
]
Content = Annotated[_Content, PlainValidator(_content, _Content)]
TokenIds = Annotated[list[int], BeforeValidator(_integers, list[IntegerInput])]
Tools = Annotated[list[dict[str, Any]] | None, AfterValidator(_tools)]
LogitBias = Annotated[dict[int, float] | None, PlainValidator(_logit_bias, dict[str, float] | None)]
Count = Annotated[
    int,
    Field(ge=1, le=MAX_N),
    BeforeValidator(unless_null(1, integer), Annotated[int, Field(ge=1, le=MAX_N)] | IntegerText | None),
]
