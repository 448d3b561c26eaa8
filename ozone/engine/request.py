"""The state of one sequence while the engine works on it."""

from __future__ import annotations


class Request:
    """One sequence (one of a user request's `n` completions). The runner reads only these fields.

    Attributes:
        request_id: unique within the engine.
        token_ids: prompt tokens followed by generated tokens.
        num_prompt_tokens: how many of them are the prompt.
        block_ids: blocks of the KV cache that hold its positions, in order.
        num_computed_tokens: positions already in the KV cache.
    """

    request_id: str
    token_ids: list[int]
    num_prompt_tokens: int
    block_ids: list[int]
    num_computed_tokens: int
