"""Greedy text of the default model in fp32 equals transformers', however the engine schedules it."""

from __future__ import annotations

from typing import Any

import pytest

from ozone import LLM, SamplingParams

from .conftest import MAX_TOKENS, Expected

GREEDY = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True)

# name -> engine arguments. A block of the fp32 cache holds 16 tokens x 30 layers x 2 x 192 x 4 bytes.
BLOCK_BYTES = 16 * 30 * 2 * 192 * 4
SCHEDULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "without prefix caching": {"enable_prefix_caching": False},
    "chunked into few tokens": {"max_num_batched_tokens": 15, "max_num_seqs": 11},
    "preempted for lack of blocks": {
        "kv_cache_memory_bytes": 64 * BLOCK_BYTES,
        "max_model_len": 128,
        "max_num_seqs": 20,
    },
}


def start(**kwargs: Any) -> LLM:
    return LLM(dtype="float32", optimization_level=0, **{"max_model_len": 512, **kwargs})


def token_ids(outputs: list[Any]) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


def test_the_reference_is_what_transformers_generates(
    expected: list[Expected], reference: tuple[Any, Any]
) -> None:
    """The fixture verifies a draft; this checks it against transformers' own loop, on one prompt."""
    import torch

    model, _ = reference
    case = expected[1]
    model.generation_config.eos_token_id = None  # go on after end-of-sequence
    with torch.inference_mode():
        ids = torch.tensor([case.prompt_token_ids])
        output = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :].tolist()
    assert output == case.token_ids[:24]


def test_prompts_one_after_another(expected: list[Expected]) -> None:
    with start() as llm:
        for case in expected:
            (output,) = llm.generate(case.prompt, GREEDY, use_tqdm=False)
            assert output.prompt_token_ids == case.prompt_token_ids
            assert output.outputs[0].token_ids == case.token_ids, case.prompt


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_prompts_batched_together(expected: list[Expected], schedule: str) -> None:
    with start(**SCHEDULES[schedule]) as llm:
        prompts = [case.prompt for case in expected]
        assert token_ids(llm.generate(prompts, GREEDY, use_tqdm=False)) == [
            case.token_ids for case in expected
        ]
        if schedule.startswith("preempted"):
            assert llm.engine_stats().num_preemptions > 0


def test_a_cached_prefix_is_used_and_changes_nothing(expected: list[Expected]) -> None:
    case = expected[0]
    prompt = {"prompt_token_ids": case.prompt_token_ids + case.token_ids[:40]}
    rest = SamplingParams(temperature=0, max_tokens=MAX_TOKENS - 40, ignore_eos=True)
    with start() as llm:
        (cold,) = llm.generate(prompt, rest, use_tqdm=False)
        (warm,) = llm.generate(prompt, rest, use_tqdm=False)
    assert cold.num_cached_tokens == 0
    assert warm.num_cached_tokens is not None and warm.num_cached_tokens >= 32
    assert cold.outputs[0].token_ids == warm.outputs[0].token_ids == case.token_ids[40:]
