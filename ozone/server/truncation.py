"""Cutting prompts to a number of tokens: vLLM's `truncate_prompt_tokens` and `truncation_side`."""

from __future__ import annotations

from dataclasses import dataclass

from ozone.errors import RequestError
from ozone.server.interfaces import ServerTokenizer
from ozone.server.requests import GenerationRequest


@dataclass(frozen=True)
class Truncation:
    """Keep so many tokens: the last ones, or the first ones."""

    num_tokens: int
    keep_first: bool

    def cut(self, token_ids: list[int], num_tokens: int | None = None) -> list[int]:
        """Tokens of a prompt, cut."""
        most = self.num_tokens if num_tokens is None else max(0, num_tokens)
        if len(token_ids) <= most:
            return token_ids
        return token_ids[:most] if self.keep_first else token_ids[len(token_ids) - most :]

    def encode(self, tokenizer: ServerTokenizer, text: str, add_special_tokens: bool) -> list[int]:
        """The tokens of a text, cut. What the tokenizer puts around the text stays."""
        token_ids = tokenizer.encode(text, add_special_tokens)
        if len(token_ids) <= self.num_tokens or not add_special_tokens:
            return self.cut(token_ids)
        inner = tokenizer.encode(text, False)
        num_added = len(token_ids) - len(inner)
        for before in range(num_added + 1):
            if token_ids[before : before + len(inner)] == inner:
                after = token_ids[before + len(inner) :]
                return self.cut(token_ids[:before] + self.cut(inner, self.num_tokens - num_added) + after)
        return self.cut(token_ids)


def truncation_of(body: GenerationRequest, max_tokens: int, max_model_len: int) -> Truncation | None:
    """What a request asks for. RequestError where so many tokens do not fit.

    max_tokens: how many more the request asks for; -1 as the number to keep means all that fit before them.
    """
    asked = body.truncate_prompt_tokens
    if asked is None:
        return None
    if asked == 0:
        raise RequestError(
            "truncate_prompt_tokens must be at least 1, or -1 for all that fit",
            param="truncate_prompt_tokens",
        )
    room = max_model_len - max_tokens
    if asked > room:
        raise RequestError(
            f"truncate_prompt_tokens is {asked}, but the context of {max_model_len} tokens has room for "
            f"{max(room, 0)} before {max_tokens} new ones",
            param="truncate_prompt_tokens",
        )
    return Truncation(max(room, 0) if asked == -1 else asked, body.truncation_side == "right")
