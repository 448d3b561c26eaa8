"""Checked access to the numbers of an untrusted config: present, of the right kind, within sane bounds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, overload

from ozone.config.model import AttentionKind
from ozone.errors import ModelFileError, shown

MAX_LAYERS = 1024  # the deepest models have about 130
MAX_CONTEXT = 1 << 24  # tokens; the longest of any model is about 10 million
MAX_WIDTH = 1 << 26  # of any dimension of a matrix: the product of two fits a tensor's 64 bits
MAX_SIZE = 1 << 31
MIN_NUMBER, MAX_NUMBER = 1e-30, 1e15


class Fields:
    """The key-values of a config file, read one by one with the file's name in every error.

    JSON ``null`` counts as missing: that is what it means wherever checkpoints write it.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def fail(self, key: str, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.where}: {key} {problem}")

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def size(self, key: str, default: int | None = None, most: int = MAX_SIZE) -> int:
        """A positive whole number; required where no default is given."""
        value = self.optional_size(key, most)
        if value is not None:
            return value
        if default is None:
            raise self.fail(key, "is missing")
        return default

    def optional_size(self, key: str, most: int = MAX_SIZE) -> int | None:
        """A positive whole number or None."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer() and abs(value) <= most:
            value = int(value)
        if type(value) is not int or not 1 <= value <= most:
            raise self.fail(key, f"is {shown(value)}, not a whole number from 1 to {most}")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number that may be zero; required where no default is given."""
        value = self.values.get(key)
        return 0 if type(value) in (int, float) and value == 0 else self.size(key, default)

    @overload
    def number(self, key: str, default: float, *, positive: bool = True) -> float: ...
    @overload
    def number(self, key: str, default: None = None, *, positive: bool = True) -> float | None: ...
    def number(self, key: str, default: float | None = None, *, positive: bool = True) -> float | None:
        """A finite number, greater than zero unless `positive` is off."""
        value = self.values.get(key)
        if value is None:
            return default
        if (
            type(value) not in (int, float)
            or not abs(value) <= MAX_NUMBER
            or (positive and value < MIN_NUMBER)
        ):
            raise self.fail(key, f"is {shown(value)}, not a {'positive ' if positive else ''}finite number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(key, f"is {shown(value)}, not true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.fail(key, f"is {shown(value)}, not a text")
        return value

    def mapping(self, key: str) -> dict[str, Any] | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fail(key, f"is {shown(value)}, not an object")
        return value

    def token_ids(self, key: str) -> tuple[int, ...]:
        """One token id or a list of them; empty where missing."""
        value = self.values.get(key)
        if value is None:
            return ()
        ids = value if isinstance(value, list) else [value]
        if not all(type(i) is int and 0 <= i <= MAX_SIZE for i in ids):
            raise self.fail(key, f"is {shown(value)}, not a token id or a list of token ids")
        return tuple(dict.fromkeys(ids))

    def choice(self, key: str, choices: Collection[str], default: str) -> str:
        value = self.text(key, default)
        assert value is not None
        if value not in choices:
            raise self.fail(key, f"is {shown(value)}; supported: {', '.join(choices)}")
        return value


def check_heads(fields: Fields, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
    """Every key/value head serves the same number of query heads, and rotary halves are whole."""
    if num_heads % num_kv_heads:
        raise ModelFileError(
            f"{fields.where}: {num_heads} attention heads cannot share {num_kv_heads} key/value heads evenly"
        )
    if num_heads * head_dim > MAX_WIDTH:
        raise ModelFileError(
            f"{fields.where}: {num_heads} attention heads of {head_dim} are more than {MAX_WIDTH} columns"
        )
    if head_dim % 2:
        raise ModelFileError(f"{fields.where}: the head dimension {head_dim} is odd")


def attention_kinds(sliding: Iterable[bool]) -> tuple[AttentionKind, ...]:
    """`ModelConfig.layer_types` from one truth value per layer."""
    return tuple("sliding_attention" if layer else "full_attention" for layer in sliding)
