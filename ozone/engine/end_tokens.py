"""Tokens that end an answer, found beside what a file names: by well-known texts and by the chat template.

A GGUF file has room for one end-of-sequence token, and many name the base model's. Without the token that
ends a turn an answer would run on into turns that the model invents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, SupportsIndex

from ozone.errors import RequestError

if TYPE_CHECKING:
    from ozone.engine.chat_template import ChatTemplate
    from ozone.engine.tokenizer import Tokenizer

# Texts that llama.cpp ends on (src/llama-vocab.cpp), whatever a file says of them.
END_TEXTS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)  # fmt: skip
# Between files and repositories, for models of code: the first of each kind that a vocabulary has.
FILE_TEXTS = (
    ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    ("<|file_sep|>",),
)
# Ids under which newer files name such tokens.
_GGUF_KEYS = ("eot_token_id", "eom_token_id", "fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id")
_ANSWER = "ozone-answer"


def gguf_end_tokens(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> set[int]:
    """Those of a GGUF file: by its keys and by their texts."""
    candidates: list[Any] = [tokenizer.token_id(text) for text in END_TEXTS]
    for texts in FILE_TEXTS:
        ids = (tokenizer.token_id(text) for text in texts)
        candidates.append(next((token_id for token_id in ids if token_id is not None), None))
    candidates += [metadata.get(f"tokenizer.ggml.{key}") for key in _GGUF_KEYS]
    return {int(token_id) for token_id in candidates if _is_token(token_id, tokenizer.vocab_size)}


def template_end_token(tokenizer: Tokenizer, template: ChatTemplate) -> int | None:
    """The special token that the chat template puts behind an answer, if it does."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = template.render(messages, add_generation_prompt=False)
        behind = tokenizer.encode(text.rpartition(_ANSWER)[2].lstrip(), add_special_tokens=False)
    except RequestError:  # it wants other messages than these
        return None
    return behind[0] if _ANSWER in text and behind and tokenizer.is_special(behind[0]) else None


def _is_token(value: object, vocab_size: int) -> bool:
    """Whether a value of a file is a token id."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return False
    return 0 <= value.__index__() < vocab_size
