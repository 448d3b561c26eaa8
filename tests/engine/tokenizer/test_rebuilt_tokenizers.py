"""Tokenizers rebuilt from GGUF metadata give the tokens that transformers and sentencepiece give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizer_texts import PLAIN_TEXTS, TEXTS
from vocabularies import byte_level_metadata, sentencepiece_metadata, sentencepiece_model

from ozone.engine.tokenizer import Tokenizer, load_tokenizer
from ozone.engine.tokenizer.pre_tokenizers import pre_tokenizer

SPACE_RUNS = (*("▁" * n for n in range(2, 12)), "\n\n", "\n\n\n", "\t\t", "<table>")


def differing(tokenizer: Tokenizer, reference: Any, texts: list[str]) -> list[str]:
    """Texts for which `reference` (a tokenizers.Tokenizer) gives other tokens, special ones not added."""
    return [
        text
        for text in texts
        if tokenizer.encode(text, False) != reference.encode(text, add_special_tokens=False).ids
    ]


def transformers_reference(metadata: dict[str, Any], architecture: str) -> Any:
    """What transformers' own GGUF reader makes of the same metadata."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import (
        GGUF_TOKENIZER_MAPPING,
        convert_gguf_tokenizer,
    )

    plain = {key: v.tolist() if isinstance(v, np.ndarray) else v for key, v in metadata.items()}
    renamed = GGUF_TOKENIZER_MAPPING["tokenizer"]
    values = {name: plain[f"tokenizer.{key}"] for key, name in renamed.items() if f"tokenizer.{key}" in plain}
    return convert_gguf_tokenizer(architecture, values)[0]


def vocabulary_and_merges(metadata: dict[str, Any]) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    return {"vocab": {token: n for n, token in enumerate(tokens)}, "merges": merges}


def test_the_default_model_tokenizes_as_in_transformers(
    default_tokenizer: Tokenizer, default_gguf: Path
) -> None:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(str(default_gguf.parent), gguf_file=default_gguf.name)
    # transformers knows no "smollm" kind and splits as GPT-2 does; the model's own tokenizer.json parts
    # digits first, which shows in digits beyond ASCII.
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    for text in TEXTS:
        ids = reference(text)["input_ids"]
        assert default_tokenizer.encode(text) == ids, text
        for skip in (True, False):
            expected = reference.decode(ids, skip_special_tokens=skip)
            assert default_tokenizer.decode(ids, skip_special_tokens=skip) == expected
    assert default_tokenizer.vocab_size == len(reference)
    assert (default_tokenizer.bos_token, default_tokenizer.bos_token_id) == ("<|im_start|>", 1)
    assert (default_tokenizer.eos_token, default_tokenizer.eos_token_id) == ("<|im_end|>", 2)


@pytest.mark.parametrize(
    "pre",
    ["gpt-2", "default", "llama-bpe", "dbrx", "smaug-bpe", "deepseek-r1-qwen", "tekken", "gpt-4o", "llama4"],
)
def test_a_byte_level_vocabulary_tokenizes_as_in_transformers(pre: str) -> None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    metadata = byte_level_metadata(pre, GGUF_PRE_TOKENIZER_SPLITS.get(pre))
    tokenizer = load_tokenizer(gguf_metadata=metadata)
    assert differing(tokenizer, transformers_reference(metadata, "llama"), TEXTS) == []


def test_a_qwen2_vocabulary_tokenizes_as_transformers_qwen2tokenizer() -> None:
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    metadata = byte_level_metadata("qwen2", PRETOKENIZE_REGEX)
    reference = Qwen2Tokenizer(**vocabulary_and_merges(metadata))
    reference.add_tokens(["<tool>"])
    reference.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer = load_tokenizer(gguf_metadata=metadata)
    assert differing(tokenizer, reference.backend_tokenizer, TEXTS) == []


@pytest.mark.parametrize("pre", ["smollm", "starcoder", "refact", "exaone", "codeshell", "command-r"])
def test_a_vocabulary_that_parts_digits_tokenizes_as_transformers_coheretokenizer(pre: str) -> None:
    from transformers import CohereTokenizer

    metadata = byte_level_metadata(pre)
    roles = ("unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
    named = dict.fromkeys(roles, "<|endoftext|>") | {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    reference = CohereTokenizer(**vocabulary_and_merges(metadata), **named)
    if pre != "command-r":
        from tokenizers.normalizers import Sequence

        reference.backend_tokenizer.normalizer = Sequence([])
    tokenizer = load_tokenizer(gguf_metadata=metadata)
    assert differing(tokenizer, reference.backend_tokenizer, TEXTS) == []


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "a 12345's  b\n\nc", ["a", " 12345", "'s", " ", " b", "\n", "\n", "c"]),
        ("smollm", "a 123's", ["a", " ", "1", "2", "3", "'s"]),
        ("llama-bpe", "it'S 12345 (x)\n\n y", ["it", "'S", " ", "123", "45", " (", "x", ")\n\n", " y"]),
        ("qwen2", "it'S 123 (x)\n\n y", ["it", "'S", " ", "1", "2", "3", " (", "x", ")\n\n", " y"]),
        ("tekken", "camelCase's a/b//\n", ["camel", "Case", "'s", " a", "/b", "//\n"]),
        ("gpt-4o", "camelCase's 1234", ["camel", "Case's", " ", "123", "4"]),
        ("deepseek-v3", "x1234567你好ok!a b", ["x", "123", "456", "7", "你好", "ok", "!a", " b"]),
        ("deepseek-coder", "a b, 12\n\n你好", ["a", " b", ",", " ", "1", "2", "\n", "\n", "你好"]),
        ("falcon", "a 12345 b.c", ["a", " ", "123", "45", " b", ".", "c"]),
    ],
)
def test_each_kind_splits_a_text_as_published(pre: str, text: str, pieces: list[str]) -> None:
    steps = {"type": "Sequence", "pretokenizers": list(pre_tokenizer(pre).steps)}
    splitter = tokenizers.pre_tokenizers.Sequence([])
    splitter.__setstate__(json.dumps(steps).encode())
    spans = [span for _, span in splitter.pre_tokenize_str(text)]
    assert [text[start:end] for start, end in spans] == pieces


@pytest.mark.parametrize("add_dummy_prefix", [True, False])
@pytest.mark.parametrize("user_defined", [(), ("<sep>", "<x>")])
def test_a_sentencepiece_vocabulary_tokenizes_as_sentencepiece(
    add_dummy_prefix: bool, user_defined: tuple[str, ...]
) -> None:
    processor = sentencepiece_model(add_dummy_prefix, user_defined)
    metadata = sentencepiece_metadata(processor, user_defined, add_space_prefix=add_dummy_prefix)
    tokenizer = load_tokenizer(gguf_metadata=metadata)
    assert tokenizer.vocab_size == processor.get_piece_size()
    for text in PLAIN_TEXTS:
        assert tokenizer.encode(text, False) == processor.encode(text), text
        assert tokenizer.decode(processor.encode(text)) == processor.decode(processor.encode(text)), text


def test_a_llama_vocabulary_tokenizes_as_in_transformers() -> None:
    metadata = sentencepiece_metadata(sentencepiece_model(True, ("<sep>",)), ("<sep>",))
    tokenizer = load_tokenizer(gguf_metadata=metadata)
    texts = [*TEXTS, "a<sep>b <sep> c", "<sep>", "<s><sep></s> x"]
    # "phi3" is how transformers spells a prefix for every stretch of text, which is what sentencepiece's
    # own tokenizer.json files do; its "llama" leaves the prefix out before a space.
    assert differing(tokenizer, transformers_reference(metadata, "phi3"), texts) == []
    # There, after a special token no prefix is added either.
    unprefixed = [text for text in PLAIN_TEXTS if not text.startswith((" ", "▁"))]
    assert differing(tokenizer, transformers_reference(metadata, "llama"), unprefixed) == []


def test_a_gemma_vocabulary_tokenizes_as_in_sentencepiece_and_transformers() -> None:
    processor = sentencepiece_model(False, SPACE_RUNS)
    metadata = sentencepiece_metadata(processor, SPACE_RUNS, add_space_prefix=False)
    tokenizer = load_tokenizer(gguf_metadata=metadata)
    assert [text for text in PLAIN_TEXTS if tokenizer.encode(text, False) != processor.encode(text)] == []
    # For runs of spaces longer than any token, transformers (and Gemma's tokenizer.json) part from
    # sentencepiece, which takes the longest token first.
    texts = [text for text in TEXTS if "<pad>" not in text]  # which transformers adds to every Gemma
    texts += ["<table>\n\n\n\n\n<table>", "a\t\t\tb", "x" + " " * 11 + "y"]
    texts = [text for text in texts if " " * 12 not in text]
    assert differing(tokenizer, transformers_reference(metadata, "gemma3"), texts) == []


@pytest.mark.parametrize("mark", [" ", "▁"])
def test_runs_of_spaces_are_matched_longest_first(mark: str) -> None:
    """As Gemma's: runs of up to 31 spaces, stored as typed or in sentencepiece's spelling."""
    runs = tuple("▁" * n for n in range(2, 32))
    metadata = sentencepiece_metadata(sentencepiece_model(False, runs), runs, add_space_prefix=False)
    tokens = metadata["tokenizer.ggml.tokens"]
    metadata["tokenizer.ggml.tokens"] = [
        token.replace(" ", mark) if token.isspace() and len(token) > 1 else token for token in tokens
    ]
    tokenizer = load_tokenizer(gguf_metadata=metadata)
    lengths = [len(tokenizer.token_text(token)) for token in tokenizer.encode(" " * 45 + "x", False)]
    assert lengths == [31, 14, 1]
    assert tokenizer.decode(tokenizer.encode("a" + " " * 45 + "b  c", False)) == "a" + " " * 45 + "b  c"


def test_bos_and_eos_are_added_as_the_file_says() -> None:
    def encode(metadata: dict[str, Any]) -> list[int]:
        return load_tokenizer(gguf_metadata=metadata).encode("<|im_end|>")

    assert encode(byte_level_metadata("gpt-2", add_bos_token=None)) == [2]
    assert encode(byte_level_metadata("gpt-2", add_bos_token=True)) == [1, 2]
    assert encode(byte_level_metadata("gpt-2", add_bos_token=True, add_eos_token=True)) == [1, 2, 2]
    assert encode(byte_level_metadata("gpt-2", add_bos_token=False, add_eos_token=True)) == [2, 2]
    assert encode(byte_level_metadata("llama-bpe", add_bos_token=None)) == [1, 2]
    assert encode(byte_level_metadata("llama-bpe", add_bos_token=None, bos_token_id=None)) == [2]
    tokenizer = load_tokenizer(gguf_metadata=byte_level_metadata("gpt-2", add_bos_token=True))
    assert tokenizer.encode("<|im_end|>", add_special_tokens=False) == [2]


def test_a_sentencepiece_file_that_says_nothing_gets_the_usual_ids_and_bos() -> None:
    processor = sentencepiece_model(True)
    metadata = sentencepiece_metadata(processor, bos_token_id=None, eos_token_id=None, unknown_token_id=None)
    tokenizer = load_tokenizer(gguf_metadata=metadata)
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<s>", 1)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("</s>", 2)
    assert tokenizer.encode("Hello") == [1, *processor.encode("Hello")]


def test_a_sentencepiece_file_without_token_types_still_knows_its_byte_and_special_tokens() -> None:
    processor = sentencepiece_model(True)
    tokenizer = load_tokenizer(gguf_metadata=sentencepiece_metadata(processor, token_type=None))
    assert tokenizer.encode("<s>𓀀</s>", False) == [1, *processor.encode("𓀀"), 2]
    assert tokenizer.decode([1, *processor.encode("𓀀"), 2]) == "𓀀"


def test_control_tokens_are_special_and_user_defined_ones_are_not() -> None:
    tokenizer = load_tokenizer(gguf_metadata=byte_level_metadata("gpt-2"))
    ids = tokenizer.encode("a<tool><|im_end|>b  raw spaces  c")
    assert tokenizer.decode(ids) == "a<tool>b  raw spaces  c"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<tool><|im_end|>b  raw spaces  c"
    assert len(ids) == 6


def test_an_empty_spelling_is_a_hole_in_the_vocabulary() -> None:
    tokens = byte_level_metadata("gpt-2")["tokenizer.ggml.tokens"]
    metadata = byte_level_metadata("gpt-2", tokens=["", "", *tokens[2:]], bos_token_id=None)
    tokenizer = load_tokenizer(gguf_metadata=metadata)
    assert tokenizer.vocab_size == len(tokens)
    assert tokenizer.decode([0, 1]) == ""
    assert tokenizer.decode(tokenizer.encode("still works")) == "still works"
