"""From a GGUF vocabulary to the tokenizer.json that means the same."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from operator import itemgetter
from typing import Any

from ozone.engine.tokenizer.gguf_vocabulary import TokenType, Vocabulary
from ozone.engine.tokenizer.pre_tokenizers import Component, pre_tokenizer
from ozone.errors import ModelFileError, shown

logger = logging.getLogger(__name__)

SPACE_MARK = "\u2581"  # how sentencepiece writes a space
MAX_TOKEN_CHARACTERS = 512  # sentencepiece's own limit is 16 unless it is told otherwise
MAX_MERGES = 2_000_000  # Gemma's 262,144 tokens have about 600,000
MAX_CUT_CHARACTERS = (
    256 << 20
)  # cutting a token everywhere copies the square of its length; Gemma's take 18 M
_BYTE = re.compile("<0x[0-9A-F]{2}>")


def rebuild(vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of a tokenizer.json. ModelFileError for a kind of tokenizer that is not supported."""
    match vocabulary.model:
        case "gpt2":
            return _byte_level_bpe(vocabulary)
        case "llama":
            return _sentencepiece_bpe(vocabulary)
        case other:
            raise ModelFileError(
                f"tokenizer.ggml.model is {shown(other)}; Ozone reads 'gpt2' (byte-level BPE) and 'llama' "
                "(sentencepiece)"
            )


def _byte_level_bpe(vocabulary: Vocabulary) -> dict[str, Any]:
    if vocabulary.merges is None:
        raise ModelFileError("tokenizer.ggml.merges is missing, and byte-level BPE cannot do without")
    if vocabulary.pre in (None, "default"):
        logger.warning("the GGUF file does not name its pre-tokenizer: GPT-2's is used, which may be wrong")
    split = pre_tokenizer(vocabulary.pre or "default")
    return _tokenizer(
        vocabulary,
        normalizer={"type": "NFC"} if split.nfc else None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": list(split.steps)},
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        add_bos=split.add_bos,
        model={
            "unk_token": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": split.ignore_merges,
            "merges": [_pair(merge) for merge in vocabulary.merges],
        },
    )


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge[1:].partition(" ")  # the left part may begin with a space
    if not merge or not right:
        raise ModelFileError(
            f"tokenizer.ggml.merges has {shown(merge)}, which is not two tokens and a space between"
        )
    return merge[0] + left, right


def _sentencepiece_bpe(vocabulary: Vocabulary) -> dict[str, Any]:
    if vocabulary.scores is None:
        raise ModelFileError(
            "tokenizer.ggml.scores is missing, and a sentencepiece vocabulary cannot do without"
        )
    vocabulary = replace(vocabulary, types=vocabulary.types or _guessed_types(vocabulary))
    prefixed = vocabulary.add_space_prefix is not False
    vocabulary = _spell_spaces_as_marks(vocabulary, mergeable=prefixed)
    normalizers: list[Component] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}]
    decoders: list[Component] = [
        {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefixed:
        normalizers.insert(0, {"type": "Prepend", "prepend": SPACE_MARK})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return _tokenizer(
        vocabulary,
        normalizer={"type": "Sequence", "normalizers": normalizers},
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": decoders},
        add_bos=True,
        model={
            "unk_token": None if vocabulary.unk_id is None else vocabulary.tokens[vocabulary.unk_id],
            "fuse_unk": True,
            "byte_fallback": True,
            "merges": merges_of_scores(vocabulary),
        },
    )


def _guessed_types(vocabulary: Vocabulary) -> list[int]:
    """Token types of a file that has none: the byte tokens and the special ids are told by their looks."""
    types: list[int] = [TokenType.BYTE if _BYTE.fullmatch(t) else TokenType.NORMAL for t in vocabulary.tokens]
    for token_id, kind in (
        (vocabulary.bos_id, TokenType.CONTROL),
        (vocabulary.eos_id, TokenType.CONTROL),
        (vocabulary.unk_id, TokenType.UNKNOWN),
    ):
        if token_id is not None:
            types[token_id] = kind
    return types


def _spell_spaces_as_marks(vocabulary: Vocabulary, *, mergeable: bool) -> Vocabulary:
    """User-defined tokens with spaces in them, which some files store as typed, in sentencepiece's spelling.

    To sentencepiece a run of spaces is such a token: it is matched before every merge, the longest first.
    So it is here (`_added_tokens`), but where the library puts a mark before each text: it would put one
    before such a token as well. There (`mergeable`) a run is an ordinary token whose merges come first.
    """
    tokens, types, scores = (
        list(vocabulary.tokens),
        list(vocabulary.types or ()),
        list(vocabulary.scores or ()),
    )
    taken = set(tokens)
    first = max(scores) + 1
    runs = [n for n, token in enumerate(tokens) if token and not token.strip(" ")]
    for place, n in enumerate(sorted(runs, key=lambda n: len(tokens[n]), reverse=True)):
        spelling = SPACE_MARK * len(tokens[n])
        ordinary = mergeable or len(tokens[n]) == 1
        types[n] = TokenType.NORMAL if ordinary else TokenType.USER_DEFINED
        if spelling not in taken:
            tokens[n], scores[n] = spelling, first + place
    return replace(vocabulary, tokens=tokens, types=types, scores=scores)


def merges_of_scores(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The pairs that make each token, best score first: sentencepiece merges whatever makes the best token.

    For one token, and between equal scores, the longer left part comes first.
    """
    mergeable = (TokenType.NORMAL, TokenType.UNUSED)
    types, scores = vocabulary.types or [], vocabulary.scores or []
    parts = {
        token for token, kind in zip(vocabulary.tokens, types, strict=True) if kind in mergeable and token
    }
    found: list[tuple[float, int, int, str, str]] = []
    to_cut = sum(len(token) ** 2 for token in parts)
    for token, score in zip(vocabulary.tokens, scores, strict=True):
        if token in parts:
            if to_cut > MAX_CUT_CHARACTERS or len(token) > MAX_TOKEN_CHARACTERS or len(found) > MAX_MERGES:
                raise ModelFileError(
                    f"tokenizer.ggml.tokens is no sentencepiece vocabulary: it has tokens of more than "
                    f"{MAX_TOKEN_CHARACTERS} characters, too many long ones, or more than {MAX_MERGES} ways "
                    "to merge two tokens"
                )
            found += [
                (-score, -cut, cut - len(token), left, right)
                for cut in range(len(token) - 1, 0, -1)
                if (left := token[:cut]) in parts and (right := token[cut:]) in parts
            ]
    found.sort(key=itemgetter(0, 1, 2))
    return [(left, right) for *_, left, right in found]


def _tokenizer(
    vocabulary: Vocabulary, *, model: dict[str, Any], add_bos: bool, **components: Component | None
) -> dict[str, Any]:
    """tokenizer.json around the parts in which the kinds differ."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocabulary),
        "post_processor": _post_processor(vocabulary, add_bos=add_bos),
        "model": {
            "type": "BPE",
            "dropout": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "vocab": {token: n for n, token in enumerate(vocabulary.tokens) if token},
            **model,
        },
        **components,
    }


def _added_tokens(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Tokens that are matched in the text before anything else: control tokens and user-defined ones."""
    types = vocabulary.types or [TokenType.NORMAL] * len(vocabulary.tokens)
    always_special = {vocabulary.bos_id, vocabulary.eos_id}
    added = []
    for n, (token, kind) in enumerate(zip(vocabulary.tokens, types, strict=True)):
        special = kind in (TokenType.CONTROL, TokenType.UNKNOWN) or n in always_special
        if token and (special or kind == TokenType.USER_DEFINED):
            flags = {"single_word": False, "lstrip": False, "rstrip": False}
            # With marks in it, it is found in the text as the normalizer leaves it: with marks for spaces.
            flags["normalized"] = not special and SPACE_MARK in token
            added.append({"id": n, "content": token, **flags, "special": special})
    return added


def _post_processor(vocabulary: Vocabulary, *, add_bos: bool) -> Component | None:
    """Puts bos before and eos after a text, as the file says or else as `add_bos` does."""
    bos = _wanted(vocabulary, vocabulary.bos_id, vocabulary.add_bos, "bos", default=add_bos)
    eos = _wanted(vocabulary, vocabulary.eos_id, vocabulary.add_eos, "eos", default=False)
    return template(bos, eos) if bos or eos else None


def _wanted(
    vocabulary: Vocabulary, token_id: int | None, flag: bool | None, name: str, *, default: bool
) -> tuple[str, int] | None:
    if token_id is None or not vocabulary.tokens[token_id]:
        if flag:
            raise ModelFileError(f"tokenizer.ggml.add_{name}_token is true, but there is no {name}_token_id")
        return None
    return (vocabulary.tokens[token_id], token_id) if (default if flag is None else flag) else None


def template(bos: tuple[str, int] | None, eos: tuple[str, int] | None) -> Component:
    """A post-processor that puts these tokens (text, id) around each text."""

    def one(sequence: str, type_id: int) -> list[Component]:
        before = [{"SpecialToken": {"id": bos[0], "type_id": type_id}}] if bos else []
        after = [{"SpecialToken": {"id": eos[0], "type_id": type_id}}] if eos else []
        return [*before, {"Sequence": {"id": sequence, "type_id": type_id}}, *after]

    return {
        "type": "TemplateProcessing",
        "single": one("A", 0),
        "pair": one("A", 0) + one("B", 1),
        "special_tokens": {
            token[0]: {"id": token[0], "ids": [token[1]], "tokens": [token[0]]}
            for token in (bos, eos)
            if token
        },
    }
