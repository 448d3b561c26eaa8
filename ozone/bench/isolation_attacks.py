"""Hostile but permitted requests: each as large as a server takes it, and as much work as it can be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Below the 8 MiB that a server takes by default.
_MOST = 8_000_000


@dataclass(frozen=True)
class Facts:
    """What an attacker knows of a served model: its name, vocabulary and longest sequence."""

    model: str
    vocab_size: int
    max_model_len: int

    def prompt(self, length: int, first: int = 0) -> list[int]:
        """Token ids, of ordinary tokens; others for another `first`."""
        ordinary = min(self.vocab_size // 2, 200)
        return [32 + (first * 7919 + place * place) % (ordinary - 32) for place in range(length)]


@dataclass(frozen=True)
class Attack:
    """A request: what it is called, where it goes, and how its body is made. `copies`: sent at once."""

    name: str
    path: str
    body: Callable[[Facts], bytes]
    copies: int = 1


def _json(make: Callable[[Facts], dict[str, Any]]) -> Callable[[Facts], bytes]:
    return lambda facts: json.dumps(
        {"model": facts.model, **make(facts)}, separators=(",", ":"), ensure_ascii=False
    ).encode()


def _raw(begin: bytes, filling: bytes, end: bytes) -> Callable[[Facts], bytes]:
    """`filling` as often as fits in between."""
    return lambda _: begin + filling * ((_MOST - len(begin) - len(end)) // len(filling)) + end


def _strings(number: int, length: int) -> list[str]:
    return [f"{place:03}".ljust(length, "x") for place in range(number)]


def _many(**fields: Any) -> Callable[[Facts], bytes]:
    """1024 short prompts, and these fields."""
    return _json(lambda _: {"prompt": ["a"] * 1024, "max_tokens": 1, **fields})


def _prompts(number: int, length: int | None = None, **fields: Any) -> Callable[[Facts], bytes]:
    """Prompts of so many token ids, or as long as the model takes them; each its own."""

    def make(facts: Facts) -> dict[str, Any]:
        each = min(length or facts.max_model_len, facts.max_model_len - 32)
        return {"prompt": [facts.prompt(each, first) for first in range(number)], **fields}

    return _json(make)


COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"

ATTACKS = (
    Attack(
        "1024 prompts x logit_bias of all ids",
        COMPLETIONS,
        _json(
            lambda facts: {
                "prompt": ["a"] * 1024,
                "max_tokens": 1,
                "logit_bias": {str(token): 1 for token in range(facts.vocab_size)},
            }
        ),
    ),
    Attack("1024 prompts x stop, 256 x 64", COMPLETIONS, _many(stop=_strings(256, 64))),
    Attack("1024 prompts x bad_words, 256 x 60", COMPLETIONS, _many(bad_words=_strings(256, 60))),
    Attack(
        "1.8M allowed_token_ids",
        COMPLETIONS,
        _json(
            lambda facts: {
                "prompt": ["a"] * 16,
                "max_tokens": 1,
                "allowed_token_ids": [place % min(facts.vocab_size, 1000) for place in range(1_800_000)],
            }
        ),
    ),
    Attack(
        "allowed_token_ids of all ids",
        COMPLETIONS,
        _json(lambda facts: {"prompt": ["a"] * 256, "allowed_token_ids": list(range(facts.vocab_size))}),
    ),
    Attack("1024 prompts at once", COMPLETIONS, _prompts(1024, 8, max_tokens=8)),
    Attack("8 long prompts", COMPLETIONS, _prompts(8, 2000, max_tokens=1)),
    Attack("prompt_logprobs of long prompts", COMPLETIONS, _prompts(3, 2000, prompt_logprobs=20)),
    Attack(
        "echo with n=16 and logprobs",
        COMPLETIONS,
        _prompts(1, 2000, echo=True, n=16, logprobs=5, max_tokens=16, temperature=1),
    ),
    Attack("n=128 with logprobs", COMPLETIONS, _prompts(1, 8, n=128, logprobs=20, max_tokens=16)),
    Attack(
        "penalties on long prompts",
        COMPLETIONS,
        _prompts(2, None, max_tokens=8, presence_penalty=1, frequency_penalty=1, repetition_penalty=1.1),
    ),
    Attack("8 MB of text", COMPLETIONS, _raw(b'{"prompt":"', b"hello world ", b'"}')),
    Attack("8 MB of text without spaces", COMPLETIONS, _raw(b'{"prompt":"', b"a", b'"}')),
    Attack("8 MB of escapes", COMPLETIONS, _raw(b'{"prompt":"', rb"\ud83d\ude00", b'"}')),
    Attack("8 MB of text, 4 at once", "/tokenize", _raw(b'{"prompt":"', b"hello world ", b'"}'), copies=4),
    Attack(
        "/tokenize with token strings",
        "/tokenize",
        _raw(b'{"return_token_strs":true,"prompt":"', b"hello world ", b'"}'),
    ),
    Attack(
        "/tokenize with 500,000 strings",
        "/tokenize",
        lambda _: b'{"return_token_strs":true,"prompt":"' + b" a" * 240_000 + b'"}',
    ),
    Attack("/detokenize of 4M ids", "/detokenize", _raw(b'{"tokens":[', b"9,", b"9]}")),
    Attack(
        "200,000 empty messages",
        CHAT,
        lambda _: b'{"messages":[' + b",".join([b'{"role":"user","content":""}'] * 200_000) + b"]}",
    ),
    Attack(
        "16,384 empty messages",
        CHAT,
        lambda _: b'{"messages":[' + b",".join([b'{"role":"user","content":""}'] * 16_384) + b"]}",
    ),
    Attack("a conversation of 8 MB", CHAT, _raw(b'{"messages":[{"role":"user","content":"', b"b ", b'"}]}')),
    Attack("8 MB of [],[]", COMPLETIONS, _raw(b'{"prompt":"a","max_tokens":1,"x":[', b"[],", b"[]]}")),
    Attack(
        "200,000 of [],[]",
        COMPLETIONS,
        lambda _: b'{"prompt":"a","max_tokens":1,"x":[' + b"[]," * 200_000 + b"[]]}",
    ),
    Attack(
        "400,000 unknown fields",
        COMPLETIONS,
        lambda _: b'{"prompt":"a","max_tokens":1,' + b",".join(b'"f%d":1' % n for n in range(400_000)) + b"}",
    ),
    Attack("8 MB that is not JSON", COMPLETIONS, _raw(b'{"prompt":"', b"x", b"")),
    Attack("8 MB of a number", COMPLETIONS, _raw(b'{"prompt":"a","max_tokens":', b"7", b"}")),
    Attack("8 MB of opening brackets", COMPLETIONS, _raw(b"", b"[", b"")),
    Attack("8 MB of nested objects", COMPLETIONS, _raw(b"", b'{"a":', b"")),
    Attack("8 MB that is not JSON, 16 at once", COMPLETIONS, _raw(b'["', b"x", b""), copies=16),
)
