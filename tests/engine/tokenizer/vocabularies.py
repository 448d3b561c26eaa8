"""Small vocabularies trained on the spot, as the metadata of a GGUF file would hold them."""

from __future__ import annotations

import io
import json
from functools import cache
from typing import Any

import numpy as np
import sentencepiece
from tokenizer_texts import CORPUS
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@cache
def _byte_level(split: str | None) -> tuple[list[str], list[str]]:
    tokenizer = Tokenizer(models.BPE())
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)]
    if split is not None:
        from tokenizers import Regex

        steps.insert(0, pre_tokenizers.Split(Regex(split), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [" ".join(pair) for pair in model["merges"]]


def byte_level_metadata(pre: str | None, split: str | None = None, **changes: Any) -> dict[str, Any]:
    """A byte-level BPE vocabulary trained with the regex `split` (GPT-2's where None)."""
    learned, merges = _byte_level(split)
    added = ["<tool>", "  raw spaces  "]
    tokens = [*SPECIAL_TOKENS, *learned, *added]
    types = [CONTROL] * len(SPECIAL_TOKENS) + [NORMAL] * len(learned) + [USER_DEFINED] * len(added)
    values = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": np.array(types, np.int32),
        "merges": merges,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_bos_token": False,
    }
    return _metadata(values | changes)


@cache
def sentencepiece_model(add_dummy_prefix: bool, user_defined: tuple[str, ...] = ()) -> Any:
    """A sentencepiece BPE model with byte fallback, as Llama 2's and Gemma's are."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.replace("\n", " ") for text in CORPUS),
        model_writer=model,
        model_type="bpe",
        vocab_size=1300,
        character_coverage=0.98,
        byte_fallback=True,
        add_dummy_prefix=add_dummy_prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=list(user_defined),
        minloglevel=2,
        hard_vocab_limit=False,
        num_threads=1,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def sentencepiece_metadata(
    processor: Any, user_defined: tuple[str, ...] = (), **changes: Any
) -> dict[str, Any]:
    """The metadata that a GGUF writer makes of a sentencepiece model."""
    count = processor.get_piece_size()
    tokens, types = [processor.id_to_piece(n) for n in range(count)], []
    for n in range(count):
        kind = NORMAL
        if processor.is_unknown(n):
            kind = UNKNOWN
        elif processor.is_control(n):
            kind = CONTROL
        elif processor.is_byte(n):
            kind = BYTE
        elif tokens[n] in user_defined:
            kind = USER_DEFINED
            tokens[n] = tokens[n].replace("▁", " ")
        types.append(kind)
    values = {
        "model": "llama",
        "tokens": tokens,
        "token_type": np.array(types, np.int32),
        "scores": np.array([processor.get_score(n) for n in range(count)], np.float32),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    return _metadata(values | changes)


def _metadata(values: dict[str, Any]) -> dict[str, Any]:
    named = {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}
    return {"general.architecture": "llama", **named}
