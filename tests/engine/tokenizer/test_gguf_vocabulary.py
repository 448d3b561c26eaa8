"""Tokenizer metadata of a GGUF file that does not fit together is refused in one line that says where."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabularies import byte_level_metadata, sentencepiece_metadata, sentencepiece_model

from ozone.engine.tokenizer import load_tokenizer
from ozone.errors import ModelFileError

BYTE_LEVEL = byte_level_metadata("gpt-2")
SENTENCEPIECE = sentencepiece_metadata(sentencepiece_model(True))
TOKENS = BYTE_LEVEL["tokenizer.ggml.tokens"]


def changed(metadata: dict[str, Any], **changes: Any) -> dict[str, Any]:
    merged = metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {key: value for key, value in merged.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": None}, "tokenizer.ggml.model is missing"),
        ({"model": 3}, "tokenizer.ggml.model is 3, not a string"),
        ({"model": "t5"}, "tokenizer.ggml.model is 't5'; Ozone reads"),
        (
            {"pre": "no-such-kind"},
            "tokenizer.ggml.pre is 'no-such-kind', a pre-tokenizer that Ozone does not know",
        ),
        ({"pre": ["gpt-2"]}, "tokenizer.ggml.pre is ['gpt-2'], not a string"),
        ({"tokens": None}, "tokenizer.ggml.tokens is None, not an array of strings"),
        ({"tokens": []}, "tokenizer.ggml.tokens is [], not an array of strings"),
        ({"tokens": "abc"}, "tokenizer.ggml.tokens is 'abc', not an array of strings"),
        ({"tokens": [b"a", b"b", b"c"]}, "not an array of strings"),
        ({"tokens": [*TOKENS[:-1], TOKENS[5]]}, f"tokenizer.ggml.tokens has the token {TOKENS[5]!r} twice"),
        ({"tokens": [*TOKENS[:-1], "\ud800"]}, "has a token that is not valid Unicode"),
        (
            {"tokens": TOKENS[:-1]},
            f"tokenizer.ggml.token_type has {len(TOKENS)} entries, but there are {len(TOKENS) - 1}",
        ),
        ({"token_type": [1, 2]}, "tokenizer.ggml.token_type has 2 entries"),
        ({"token_type": ["x"] * len(TOKENS)}, "tokenizer.ggml.token_type is"),
        ({"token_type": np.ones((len(TOKENS), 1), np.int32)}, "tokenizer.ggml.token_type is"),
        ({"token_type": np.ones(len(TOKENS), np.float32)}, "not an array of integers"),
        ({"token_type": 3}, "tokenizer.ggml.token_type is 3, not an array of integers"),
        ({"merges": None}, "tokenizer.ggml.merges is missing"),
        ({"merges": ["ab"]}, "tokenizer.ggml.merges has 'ab', which is not two tokens"),
        ({"merges": [""]}, "tokenizer.ggml.merges has '', which is not two tokens"),
        ({"merges": [" a"]}, "tokenizer.ggml.merges has ' a', which is not two tokens"),
        ({"merges": ["a nosuchtoken"]}, "is damaged or of an unknown kind"),
        ({"merges": [["a", "b"]]}, "tokenizer.ggml.merges is [['a', 'b']], not an array of strings"),
        (
            {"bos_token_id": len(TOKENS)},
            f"tokenizer.ggml.bos_token_id is {len(TOKENS)}, outside the vocabulary",
        ),
        ({"eos_token_id": -1}, "tokenizer.ggml.eos_token_id is -1, outside the vocabulary"),
        ({"eos_token_id": 4294967295}, "tokenizer.ggml.eos_token_id is 4294967295, outside"),
        ({"unknown_token_id": 10**30}, "tokenizer.ggml.unknown_token_id is"),
        ({"bos_token_id": "1"}, "tokenizer.ggml.bos_token_id is '1', not an integer"),
        ({"bos_token_id": 1.0}, "tokenizer.ggml.bos_token_id is 1.0, not an integer"),
        ({"bos_token_id": True}, "tokenizer.ggml.bos_token_id is True, not an integer"),
        ({"add_bos_token": 1}, "tokenizer.ggml.add_bos_token is 1, not true or false"),
        (
            {"add_bos_token": True, "bos_token_id": None},
            "add_bos_token is true, but there is no bos_token_id",
        ),
        (
            {"add_eos_token": True, "eos_token_id": None},
            "add_eos_token is true, but there is no eos_token_id",
        ),
    ],
)
def test_byte_level_metadata_is_checked(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        load_tokenizer(gguf_metadata=changed(BYTE_LEVEL, **changes))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"scores": None}, "tokenizer.ggml.scores is missing"),
        ({"scores": [0.0]}, "tokenizer.ggml.scores has 1 entries"),
        ({"scores": ["x"]}, "tokenizer.ggml.scores is ['x'], not an array of numbers"),
        ({"scores": [[0.0], [0.0, 1.0]]}, "not an array of numbers"),
        ({"scores": np.full(1300, np.nan, np.float32)}, "not a number (NaN)"),
        ({"add_space_prefix": "yes"}, "tokenizer.ggml.add_space_prefix is 'yes', not true or false"),
    ],
)
def test_sentencepiece_metadata_is_checked(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        load_tokenizer(gguf_metadata=changed(SENTENCEPIECE, **changes))
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "tokens",
    [
        ["a" * n for n in range(1, 3000)],
        ["".join(letters) for n in range(1, 9) for letters in itertools.product("abcde", repeat=n)],
        ["<unk>", "<s>", "</s>", "x" * 2_000_000],
        [f"{n:0512d}" for n in range(60_000)],
    ],
)
def test_a_vocabulary_made_to_merge_without_end_is_refused_in_time(tokens: list[str]) -> None:
    metadata = changed({}, model="llama", tokens=tokens, scores=[0.0] * len(tokens))
    start = time.perf_counter()
    with pytest.raises(ModelFileError, match="is no sentencepiece vocabulary"):
        load_tokenizer(gguf_metadata=metadata)
    assert time.perf_counter() - start < 10


LONG = "x" * 1_000_000


@pytest.mark.parametrize(
    "changes",
    [
        {"pre": [LONG]},
        {"pre": LONG},
        {"model": LONG},
        {"tokens": [*TOKENS[:-2], LONG, LONG]},
        {"merges": [LONG]},
        {"merges": [LONG + " " + LONG]},
        {"bos_token_id": 10**4000},
        {"bos_token_id": LONG},
    ],
)
def test_a_message_does_not_grow_with_the_value_that_it_shows(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError) as caught:
        load_tokenizer(gguf_metadata=changed(BYTE_LEVEL, **changes))
    assert len(str(caught.value)) < 800
    assert "\n" not in str(caught.value)


def test_special_tokens_have_the_names_that_chat_templates_use() -> None:
    tokenizer = load_tokenizer(
        gguf_metadata=changed(BYTE_LEVEL, unknown_token_id=0, padding_token_id=0, seperator_token_id=2**31)
    )
    assert tokenizer.special_tokens == {
        "bos_token": TOKENS[1], "eos_token": TOKENS[2], "unk_token": TOKENS[0], "pad_token": TOKENS[0],
    }  # fmt: skip
    assert load_tokenizer(gguf_metadata=SENTENCEPIECE).special_tokens == {
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
    }  # fmt: skip


ANY_VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.lists(st.text(max_size=3), max_size=6), st.lists(st.integers(-5, 2**40), max_size=6),
    st.lists(st.floats(), max_size=6), st.lists(st.lists(st.integers(), max_size=2), max_size=2),
)  # fmt: skip


CHANGED_KEYS = [
    "pre", "tokens", "token_type", "scores", "merges", "bos_token_id", "eos_token_id", "unknown_token_id",
    "add_bos_token", "add_eos_token", "add_space_prefix",
]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(
    kind=st.sampled_from(["gpt2", "llama"]),
    tokens=st.lists(st.text(max_size=3), min_size=1, max_size=6),
    changes=st.dictionaries(st.sampled_from(CHANGED_KEYS), ANY_VALUE),
)
def test_any_metadata_loads_or_fails_in_one_line(
    kind: str, tokens: list[str], changes: dict[str, Any]
) -> None:
    base = {"model": kind, "pre": "gpt-2", "tokens": tokens, "merges": [], "scores": [0.0] * len(tokens)}
    complaint = ""
    try:
        tokenizer = load_tokenizer(gguf_metadata=changed({}, **(base | changes)))
    except ModelFileError as error:
        complaint = str(error)
    else:
        tokenizer.decode(tokenizer.encode("a b"))
        assert all(isinstance(tokenizer.token_text(n), str) for n in range(tokenizer.vocab_size))
    assert "\n" not in complaint
