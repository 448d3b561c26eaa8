"""Offsets of tokens are where their characters are in the text, also for sentencepiece's leading space."""

from __future__ import annotations

import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from ozone.engine.tokenizer import Tokenizer
from ozone.server.text_offsets import TextOffsets, offsets_in_prompt

WORDS = ["<s>", "\u2581hi", "hi", "\u2581", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "\u00e9"]


def sentencepiece() -> Tokenizer:
    backend = tokenizers.Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<s>")
    )
    steps = [
        decoders.Replace("\u2581", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(["<s>"])
    return Tokenizer(backend, bos_token="<s>", bos_token_id=0)


TOKENIZER = sentencepiece()
TOKENS = st.lists(st.integers(0, len(WORDS) - 1), max_size=12)


def test_the_space_that_a_text_lacks_has_no_length() -> None:
    assert offsets_in_prompt(TOKENIZER, [0, 1, 1], "hi hi") == [0, 0, 2]
    assert offsets_in_prompt(TOKENIZER, [0, 1, 4, 5, 6, 7, 2], "hi\U0001f600hi") == [0, 0, 2, 2, 2, 2, 3]


@settings(deadline=None, max_examples=100)
@given(prompt=TOKENS, tokens=TOKENS, skip=st.booleans())
def test_a_token_begins_where_the_text_of_those_before_it_ends(
    prompt: list[int], tokens: list[int], skip: bool
) -> None:
    offsets = TextOffsets(TOKENIZER, prompt, skip_special_tokens=skip, start=5)
    found = [offsets.next(token_id) for token_id in tokens]
    detokenizer = TOKENIZER.detokenizer(prompt, skip)
    text = ""
    for token_id, offset in zip(tokens, found, strict=True):
        assert offset == 5 + len(text)
        text += detokenizer.append([token_id])
    assert all(offset <= 5 + len(text) for offset in found)


@settings(deadline=None, max_examples=100)
@given(tokens=TOKENS, skip=st.booleans())
def test_offsets_in_a_prompt_of_tokens_stay_within_its_text(tokens: list[int], skip: bool) -> None:
    text = TOKENIZER.decode(tokens, skip)
    offsets = offsets_in_prompt(TOKENIZER, tokens, text)
    assert offsets == sorted(offsets)
    assert all(0 <= offset <= len(text) for offset in offsets)
