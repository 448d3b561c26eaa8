"""How byte-level vocabularies split a text before merging: GGUF's `tokenizer.ggml.pre` kinds.

Each kind names components of tokenizer.json. The patterns are those of the models' published files.
A kind that is not here is refused: with a wrong split a model answers, but worse, and nobody sees why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ozone.errors import ModelFileError, shown

Component = dict[str, Any]


def _split(pattern: str) -> Component:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _byte_level(*, use_regex: bool) -> Component:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


@dataclass(frozen=True)
class PreTokenizer:
    """One kind of split.

    Attributes:
        steps: pre-tokenizer components, in order, up to and including the byte-level one.
        nfc: the text is normalized to Unicode's NFC first.
        ignore_merges: a word that is a token as a whole is not merged up from its bytes.
        add_bos: begin with bos where the file does not say.
    """

    steps: tuple[Component, ...]
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


def _by_patterns(*patterns: str) -> tuple[Component, ...]:
    return (*map(_split, patterns), _byte_level(use_regex=False))


_ENGLISH_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SYMBOLS_AND_SPACES = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = _ENGLISH_CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+"
# Words end where a capital follows a small letter; newer vocabularies share this.
_CASED_WORD_TAIL_SMALL = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_CASED_WORD_HEAD_CAPITAL = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_SYMBOLS_WITH_SLASH_AND_SPACES = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_DEEPSEEK_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGITS: Component = {"type": "Digits", "individual_digits": True}
_GPT2_WORDS = _byte_level(use_regex=True)

_GPT2 = PreTokenizer((_GPT2_WORDS,))
_DIGITS_THEN_GPT2 = PreTokenizer((_DIGITS, _GPT2_WORDS))
_LLAMA3_SPLIT = _by_patterns(_WORDS + r"|\p{N}{1,3}" + _SYMBOLS_AND_SPACES)
_LLAMA3 = PreTokenizer(_LLAMA3_SPLIT, ignore_merges=True, add_bos=True)
_QWEN2_SPLIT = _by_patterns(_WORDS + r"|\p{N}" + _SYMBOLS_AND_SPACES)
_QWEN2 = PreTokenizer(_QWEN2_SPLIT, nfc=True)
_GPT4O = PreTokenizer(
    _by_patterns(
        f"{_CASED_WORD_TAIL_SMALL}{_ENGLISH_CONTRACTION}?|{_CASED_WORD_HEAD_CAPITAL}{_ENGLISH_CONTRACTION}?"
        r"|\p{N}{1,3}" + _SYMBOLS_WITH_SLASH_AND_SPACES
    )
)
_TEKKEN = PreTokenizer(
    _by_patterns(
        f"{_CASED_WORD_TAIL_SMALL}|{_CASED_WORD_HEAD_CAPITAL}" r"|\p{N}" + _SYMBOLS_WITH_SLASH_AND_SPACES
    ),
    ignore_merges=True,
    add_bos=True,
)
_FALCON = PreTokenizer(
    (
        {"type": "Punctuation", "behavior": "Contiguous"},
        _GPT2_WORDS,
        {"type": "Digits", "individual_digits": False},
        _split("[0-9][0-9][0-9]"),
    )
)

_KINDS: dict[str, PreTokenizer] = {
    "default": _GPT2,  # what a writer puts that does not know; GPT-2's is the nearest to most
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "mpt": _GPT2,
    "olmo": _GPT2,
    "jais": _GPT2,
    "exaone4": _GPT2,
    "smollm": _DIGITS_THEN_GPT2,
    "starcoder": _DIGITS_THEN_GPT2,
    "refact": _DIGITS_THEN_GPT2,
    "codeshell": _DIGITS_THEN_GPT2,
    "exaone": _DIGITS_THEN_GPT2,
    "minerva-7b": _DIGITS_THEN_GPT2,
    "command-r": PreTokenizer(_DIGITS_THEN_GPT2.steps, nfc=True),
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "falcon3": _LLAMA3,
    "pixtral": _LLAMA3,
    "lfm2": _LLAMA3,
    "dbrx": PreTokenizer(_LLAMA3_SPLIT),
    "smaug-bpe": PreTokenizer(_LLAMA3_SPLIT),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": PreTokenizer(_QWEN2_SPLIT),
    "stablelm2": PreTokenizer(_QWEN2_SPLIT),
    "megrez": _QWEN2,
    "gpt-4o": _GPT4O,
    "llama4": _GPT4O,
    "tekken": _TEKKEN,
    "deepseek-coder": PreTokenizer(
        _by_patterns(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")
    ),
    "deepseek-v3": PreTokenizer(_by_patterns(r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK_WORDS)),
    "falcon": _FALCON,
}


def pre_tokenizer(kind: str) -> PreTokenizer:
    """The split of that name; ModelFileError for one that is not known."""
    try:
        return _KINDS[kind]
    except KeyError:
        raise ModelFileError(
            f"tokenizer.ggml.pre is {shown(kind)}, a pre-tokenizer that Ozone does not know "
            f"(known: {', '.join(sorted(_KINDS))}); give the model's own tokenizer.json with --tokenizer"
        ) from None
