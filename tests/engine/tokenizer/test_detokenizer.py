"""Incremental detokenization: whole characters only, and in the end exactly the decoded text."""

from __future__ import annotations

import codecs
import json
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_texts import PLAIN_TEXTS, TEXTS
from vocabularies import byte_level_metadata, sentencepiece_metadata, sentencepiece_model

from ozone.engine.tokenizer import Tokenizer, load_tokenizer
from ozone.engine.tokenizer.gguf_vocabulary import read_vocabulary
from ozone.engine.tokenizer.rebuild import rebuild
from ozone.errors import RequestError

METADATA = {
    "byte-level": byte_level_metadata("gpt-2"),
    "llama": sentencepiece_metadata(sentencepiece_model(True, ("<sep>",)), ("<sep>",)),
    "gemma": sentencepiece_metadata(sentencepiece_model(False, ("  ",)), ("  ",), add_space_prefix=False),
}
TOKENIZERS = {kind: load_tokenizer(gguf_metadata=metadata) for kind, metadata in METADATA.items()}
kinds = pytest.mark.parametrize("kind", list(TOKENIZERS))
ids = st.lists(st.integers(0, 1290), max_size=40)
# Tokens of single bytes and special ones, which random ids seldom hit.
broken = st.lists(st.integers(0, 280), max_size=40)
sequences = st.one_of(ids, broken)


@cache
def library(kind: str) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(rebuild(read_vocabulary(METADATA[kind]))))


def stream(
    tokenizer: Tokenizer, prompt: Sequence[int], new: Sequence[int], step: int = 1, **options: Any
) -> list[str]:
    detokenizer = tokenizer.detokenizer(prompt, **options)
    pieces = [detokenizer.append(new[n : n + step]) for n in range(0, len(new), step)]
    return [*pieces, detokenizer.flush()]


@kinds
@settings(deadline=None, max_examples=150)
@given(sequence=sequences, step=st.integers(1, 5), skip=st.booleans())
def test_what_is_streamed_is_what_decode_gives(kind: str, sequence: list[int], step: int, skip: bool) -> None:
    tokenizer = TOKENIZERS[kind]
    streamed = stream(tokenizer, [], sequence, step, skip_special_tokens=skip)
    assert "".join(streamed) == tokenizer.decode(sequence, skip_special_tokens=skip)


@settings(deadline=None, max_examples=300)
@given(sequence=sequences, skip=st.booleans())
def test_byte_level_decoding_is_the_librarys_for_any_tokens(sequence: list[int], skip: bool) -> None:
    decoded = TOKENIZERS["byte-level"].decode(sequence, skip_special_tokens=skip)
    assert decoded == library("byte-level").decode(sequence, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@settings(deadline=None, max_examples=200)
@given(sequence=ids, skip=st.booleans())
def test_sentencepiece_decoding_is_the_librarys_wherever_bytes_make_characters(
    kind: str, sequence: list[int], skip: bool
) -> None:
    # Of a run of byte tokens with one broken byte the library keeps nothing; here the rest is kept.
    backend = library(kind)
    sequence = [n for n in sequence if not (backend.id_to_token(n) or "").startswith("<0x")]
    assert TOKENIZERS[kind].decode(sequence, skip) == backend.decode(sequence, skip_special_tokens=skip)


@kinds
@settings(deadline=None, max_examples=150)
@given(text=st.text(max_size=30), cut=st.integers(0, 60))
def test_text_after_a_prompt_is_what_decoding_both_adds(kind: str, text: str, cut: int) -> None:
    tokenizer = TOKENIZERS[kind]
    sequence = tokenizer.encode(text)
    prompt, new = sequence[:cut], sequence[cut:]
    whole, before = tokenizer.decode(sequence), tokenizer.decode(prompt)
    streamed = "".join(stream(tokenizer, prompt, new))
    # A prompt that ends inside a character decodes with U+FFFD there; the character then comes after it.
    assert (before.rstrip("\ufffd") if before != whole[: len(before)] else before) + streamed == whole


@kinds
@settings(deadline=None, max_examples=150)
@given(text=st.text(max_size=40))
def test_no_broken_character_is_ever_emitted(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    text = text.replace("\ufffd", "").replace("▁", " ")
    pieces = stream(tokenizer, [], tokenizer.encode(text))
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) == text
    assert pieces[-1] == ""


@kinds
@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=60))
def test_encoding_and_decoding_a_text_gives_it_back(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    text = text.replace("▁", " ")
    assert tokenizer.decode(tokenizer.encode(text, False), skip_special_tokens=False) == text


@kinds
@settings(deadline=None, max_examples=100)
@given(prompt=sequences, new=sequences)
def test_any_prompt_is_survived(kind: str, prompt: list[int], new: list[int]) -> None:
    tokenizer = TOKENIZERS[kind]
    streamed = "".join(stream(tokenizer, [*prompt, 10**6, -5], new))
    whole = tokenizer.decode([*prompt, *new])
    assert whole.endswith(streamed)


def test_an_emoji_of_many_tokens_comes_out_one_character_at_a_time(default_tokenizer: Tokenizer) -> None:
    family = "👩‍👩‍👧‍👦"
    sequence = default_tokenizer.encode(family)
    pieces = [piece for piece in stream(default_tokenizer, [], sequence) if piece]
    assert len(sequence) > len(pieces) > 3
    assert "".join(pieces) == family


def test_all_texts_stream_as_they_decode(default_tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        sequence = default_tokenizer.encode(text)
        streamed = stream(default_tokenizer, sequence[:1], sequence[1:], skip_special_tokens=False)
        first = default_tokenizer.decode(sequence[:1], skip_special_tokens=False).rstrip("\ufffd")
        assert first + "".join(streamed) == text


def test_an_unfinished_character_is_held_back_and_flushed_as_a_replacement() -> None:
    tokenizer = TOKENIZERS["llama"]
    processor = sentencepiece_model(True, ("<sep>",))
    euro = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in "€".encode()]
    assert stream(tokenizer, [], euro) == ["", "", "€", ""]
    assert stream(tokenizer, [], euro[:2]) == ["", "", "\ufffd"]
    assert stream(tokenizer, euro[:2], euro[2:]) == ["€", ""]
    assert stream(tokenizer, [], [*euro[:2], *euro]) == ["", "", "\ufffd", "", "€", ""]


def test_the_space_before_a_word_is_dropped_at_the_start_of_a_text_only() -> None:
    tokenizer = TOKENIZERS["llama"]
    hello = tokenizer.encode("Hello", add_special_tokens=False)
    assert "".join(stream(tokenizer, [], hello)) == "Hello"
    assert "".join(stream(tokenizer, [1], hello)) == "Hello"
    assert "".join(stream(tokenizer, [1], hello, skip_special_tokens=False)) == " Hello"
    assert "".join(stream(tokenizer, hello, hello)) == " Hello"
    assert "".join(stream(tokenizer, [], tokenizer.encode("  Hello", False))) == "  Hello"


def test_special_tokens_are_left_out_only_where_asked(default_tokenizer: Tokenizer) -> None:
    sequence = default_tokenizer.encode("a<|im_end|>b")
    assert "".join(stream(default_tokenizer, [], sequence)) == "ab"
    assert "".join(stream(default_tokenizer, [], sequence, skip_special_tokens=False)) == "a<|im_end|>b"


def test_a_token_for_logprobs_keeps_its_space_and_shows_broken_bytes() -> None:
    llama = TOKENIZERS["llama"]
    processor = sentencepiece_model(True, ("<sep>",))
    assert llama.token_text(processor.encode("The")[0]) == processor.encode("The", out_type=str)[0].replace(
        "▁", " "
    )
    assert llama.token_text(processor.piece_to_id("<0xE2>")) == "\ufffd"
    assert llama.token_text(processor.piece_to_id("<0x41>")) == "A"
    assert llama.token_text(1) == "<s>"
    assert [llama.token_text(n) for n in (-1, 10**6, 2**70)] == ["", "", ""]


@kinds
@pytest.mark.parametrize("wrong", [-1, 1_000_000, 2**70])
def test_decoding_an_id_outside_the_vocabulary_is_refused(kind: str, wrong: int) -> None:
    with pytest.raises(RequestError, match=f"token id {wrong} is outside the vocabulary"):
        TOKENIZERS[kind].decode([5, wrong, 6])


def test_a_lone_surrogate_is_refused(default_tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match=r"lone surrogate U\+D83D at character 3"):
        default_tokenizer.encode("abc\ud83d def")


def test_python_and_the_library_replace_broken_utf8_alike() -> None:
    backend = library("byte-level")
    alphabet = tokenizers.pre_tokenizers.ByteLevel
    bad = [
        b"\xe2\x82",
        b"\xed\xa0\x80",
        b"\xf5\x80",
        b"\xc0\xaf",
        b"\xf0\x9f\x98\xe2\x82\xac",
        b"\x80\x80a",
        b"\xff" * 3,
    ]
    for data in bad:
        spelled = "".join(byte_characters()[byte] for byte in data)
        decoded = backend.decode([n for c in spelled if (n := backend.token_to_id(c)) is not None])
        assert decoded == data.decode("utf-8", "replace") == codecs.decode(data, "utf-8", "replace")
    assert len(alphabet.alphabet()) == 256


def byte_characters() -> dict[int, str]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    spelled: dict[int, str] = bytes_to_unicode()
    return spelled


def test_a_token_takes_far_less_than_ten_microseconds(default_tokenizer: Tokenizer) -> None:
    sequence = default_tokenizer.encode("\n".join(PLAIN_TEXTS)) * 5

    def seconds_per_token() -> float:
        detokenizer = default_tokenizer.detokenizer(sequence)
        start = time.perf_counter()
        for token_id in sequence:
            detokenizer.append([token_id])
        return (time.perf_counter() - start) / len(sequence)

    assert min(seconds_per_token() for _ in range(5)) < 10e-6


@kinds
@settings(deadline=None, max_examples=100)
@given(sequence=sequences, skip=st.booleans())
def test_the_bytes_of_the_tokens_joined_are_the_text(kind: str, sequence: list[int], skip: bool) -> None:
    tokenizer = TOKENIZERS[kind]
    data = b"".join(tokenizer.token_bytes(token_id, skip) for token_id in sequence)
    leading = 1 if kind == "llama" and data.startswith(b" ") else 0
    assert data[leading:].decode("utf-8", "replace") == tokenizer.decode(sequence, skip)


def test_a_token_is_spelled_as_in_the_vocabulary(default_tokenizer: Tokenizer) -> None:
    spellings = [default_tokenizer.token_spelling(token_id) for token_id in default_tokenizer.encode("it is")]
    assert spellings[-1] == "\u0120is"
    assert library("llama").id_to_token(10) == TOKENIZERS["llama"].token_spelling(10)
    assert [default_tokenizer.token_spelling(n) for n in (-1, 10**6, 2**70)] == ["", "", ""]
