"""Text that a model writes itself, to learn from: what it says is what it has learned (as in LLM-QAT:
Liu et al., 2023, arXiv:2305.17888).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ozone.engine.sampling_params import SamplingParams
from ozone.entrypoints.llm import LLM

_AT_ONCE = 16  # texts that are written side by side
_LEAST_TOKENS = 64  # of a text that is worth learning from


def written_windows(
    model: dict[str, Any],
    beginnings: Sequence[Sequence[int]],
    size: int,
    progress: Callable[[int], None],
) -> list[list[int]]:
    """Windows of up to `size` token ids, each of which begins as one of `beginnings` does and goes on as
    the model likes. Short ones are left out. The same ones each time.

    Args:
        model: which one, as arguments of `LLM`.
        progress: called with how many have been written.
    """
    windows: list[list[int]] = []
    with LLM(**model, max_model_len=size, max_num_seqs=_AT_ONCE, seed=0) as llm:
        for first in range(0, len(beginnings), _AT_ONCE):
            prompts = [list(tokens) for tokens in beginnings[first : first + _AT_ONCE]]
            params = [
                SamplingParams(temperature=1.0, max_tokens=size - len(prompt), seed=first + i)
                for i, prompt in enumerate(prompts)
            ]
            outputs = llm.generate(
                [{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False
            )
            windows += [
                [*prompt, *output.outputs[0].token_ids]
                for prompt, output in zip(prompts, outputs, strict=True)
            ]
            progress(len(windows))
    return [window for window in windows if len(window) >= _LEAST_TOKENS]
