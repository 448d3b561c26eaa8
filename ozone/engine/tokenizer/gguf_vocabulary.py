"""The tokenizer keys of a GGUF file, read into one checked value. Nothing here trusts the file."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ozone.errors import ModelFileError, shown

_KEY = "tokenizer.ggml."
_USED = (
    "model", "pre", "tokens", "token_type", "scores", "merges", "add_space_prefix", "add_bos_token",
    "add_eos_token", "bos_token_id", "eos_token_id", "unknown_token_id",
)  # fmt: skip


# What sentencepiece's trainer chooses; writers of older files left these keys out.
_SENTENCEPIECE_IDS = {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class TokenType(IntEnum):
    """GGUF's (and sentencepiece's) kinds of tokens."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary as a GGUF file describes it; every id lies inside `tokens`.

    Attributes:
        model: ``gpt2`` (byte-level BPE) or ``llama`` (sentencepiece).
        pre: kind of pre-tokenizer, only for byte-level BPE.
        tokens: spelling of each token, by id; no spelling twice, "" is a hole.
        types: `TokenType` of each token, or None where the file has none.
        scores: one per token or None; merges: pairs in order of rank, each "left right".
        add_bos, add_eos, add_space_prefix: None where the file does not say.
    """

    model: str
    pre: str | None
    tokens: list[str]
    types: list[int] | None
    scores: list[float] | None
    merges: list[str] | None
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    add_bos: bool | None
    add_eos: bool | None
    add_space_prefix: bool | None


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """Check and collect the tokenizer keys. ModelFileError, in one line, for anything that does not fit."""
    model, count = tokenizer_kind(metadata)
    tokens = _texts(metadata, "tokens") or []
    spellings = set(tokens)
    if len(spellings) - ("" in spellings) != count - tokens.count(""):
        twice = next(token for token, times in Counter(tokens).items() if token and times > 1)
        raise ModelFileError(f"tokenizer.ggml.tokens has the token {shown(twice)} twice")
    types = _numbers(metadata, "token_type", count, integer=True)
    scores = _numbers(metadata, "scores", count, integer=False)
    return Vocabulary(
        model=model,
        pre=_text(metadata, "pre"),
        tokens=tokens,
        types=None if types is None else types.tolist(),
        scores=None if scores is None else scores.tolist(),
        merges=_texts(metadata, "merges"),
        bos_id=special_id(metadata, "bos_token_id"),
        eos_id=special_id(metadata, "eos_token_id"),
        unk_id=special_id(metadata, "unknown_token_id"),
        add_bos=_flag(metadata, "add_bos_token"),
        add_eos=_flag(metadata, "add_eos_token"),
        add_space_prefix=_flag(metadata, "add_space_prefix"),
    )


def tokenizer_kind(metadata: Mapping[str, Any]) -> tuple[str, int]:
    """`tokenizer.ggml.model` and the number of tokens, without a look at the tokens themselves."""
    model = _text(metadata, "model")
    if model is None:
        raise ModelFileError("the GGUF file has no tokenizer: the key tokenizer.ggml.model is missing")
    tokens = metadata.get(_KEY + "tokens")
    if isinstance(tokens, str) or not isinstance(tokens, Sequence) or not tokens:
        raise _wrong("tokens", tokens, "an array of strings")
    return model, len(tokens)


def special_id(metadata: Mapping[str, Any], name: str) -> int | None:
    """The id under ``tokenizer.ggml.<name>``, or what is usual for the kind; None where there is none."""
    model, count = tokenizer_kind(metadata)
    value = metadata.get(_KEY + name)
    if value is None:
        usual = _SENTENCEPIECE_IDS.get(name) if model == "llama" else None
        return usual if usual is not None and usual < count else None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise _wrong(name, value, "an integer")
    if not 0 <= value < count:
        raise ModelFileError(f"{_KEY}{name} is {shown(value)}, outside the vocabulary of {count} tokens")
    return int(value)


def fingerprint(metadata: Mapping[str, Any], version: str) -> str:
    """A sha256 over everything that a rebuilt tokenizer depends on, in hexadecimal. Takes milliseconds."""
    digest = hashlib.sha256(version.encode())
    for name in _USED:
        value: Any = metadata.get(_KEY + name)
        raw = getattr(value, "raw", None)
        if isinstance(raw, memoryview):  # a string array that is not decoded until it is needed
            digest.update(f"\n{name} {len(value)} raw ".encode())
            digest.update(raw)
        elif isinstance(value, np.ndarray):
            digest.update(f"\n{name} {value.dtype} {value.shape} ".encode())
            digest.update(np.ascontiguousarray(value).data)
        elif isinstance(value, Sequence) and not isinstance(value, str) and _all_str(value):
            # Lengths beside the joined text: equal text cut differently is another vocabulary.
            digest.update(f"\n{name} {len(value)} ".encode())
            digest.update(array("Q", map(len, value)).tobytes())
            digest.update("".join(value).encode("utf-8", "surrogatepass"))
        else:
            digest.update(f"\n{name} {value!r}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _all_str(values: Iterable[Any]) -> bool:
    return set(map(type, values)) <= {str}


def _wrong(name: str, value: object, expected: str) -> ModelFileError:
    return ModelFileError(f"{_KEY}{name} is {shown(value)}, not {expected}")


def _text(metadata: Mapping[str, Any], name: str) -> str | None:
    value = metadata.get(_KEY + name)
    if value is not None and not isinstance(value, str):
        raise _wrong(name, value, "a string")
    return value


def _texts(metadata: Mapping[str, Any], name: str) -> list[str] | None:
    value = metadata.get(_KEY + name)
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence) or not _all_str(texts := list(value)):
        raise _wrong(name, value, "an array of strings")
    return texts


def _numbers(metadata: Mapping[str, Any], name: str, count: int, *, integer: bool) -> NDArray[Any] | None:
    value = metadata.get(_KEY + name)
    if value is None:
        return None
    expected = "an array of integers" if integer else "an array of numbers"
    if isinstance(value, str) or not isinstance(value, (Sequence, np.ndarray)):
        raise _wrong(name, value, expected)
    try:
        numbers = np.asarray(value)
    except (ValueError, OverflowError):
        raise _wrong(name, value, expected) from None
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in ("iu" if integer else "iuf")):
        raise _wrong(name, value, expected)
    if numbers.size != count:
        raise ModelFileError(f"{_KEY}{name} has {numbers.size} entries, but there are {count} tokens")
    if numbers.dtype.kind == "f" and np.isnan(numbers).any():
        raise ModelFileError(f"{_KEY}{name} has an entry that is not a number (NaN)")
    return numbers


def _flag(metadata: Mapping[str, Any], name: str) -> bool | None:
    value = metadata.get(_KEY + name)
    if value is None:
        return None
    if not isinstance(value, (bool, np.bool_)):
        raise _wrong(name, value, "true or false")
    return bool(value)
