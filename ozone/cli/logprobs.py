"""Log-probabilities of prompts and completions, as JSON and as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ozone.engine.outputs import LogprobsOfToken


def logprobs_json(steps: Sequence[LogprobsOfToken | None] | None) -> list[list[dict[str, Any]] | None] | None:
    """One list of candidates for each token, the likeliest first; None where none were asked for."""
    if steps is None:
        return None
    return [
        None
        if step is None
        else [
            {
                "token_id": token_id,
                "token": entry.decoded_token,
                "logprob": entry.logprob,
                "rank": entry.rank,
            }
            for token_id, entry in sorted(step.items(), key=lambda item: -item[1].logprob)
        ]
        for step in steps
    ]


def logprobs_lines(
    token_ids: Sequence[int], steps: Sequence[LogprobsOfToken | None], token_text: Callable[[int], str]
) -> Iterator[str]:
    """One line for each token: its candidates, the likeliest first, with a star before the token itself.

    A prompt's first token follows nothing, so that it has no candidates and stands alone.
    """
    for token_id, step in zip(token_ids, steps, strict=True):
        if step is None:
            yield f"  *{token_text(token_id)!r}"
            continue
        ranked = sorted(step.items(), key=lambda item: -item[1].logprob)
        yield "  " + "  ".join(
            f"{'*' if candidate == token_id else ''}{entry.decoded_token!r} {entry.logprob:.3f}"
            for candidate, entry in ranked
        )
