"""The engine end to end over a stub model: what comes out of a request, and when and why it ends."""

from __future__ import annotations

from engine_stubs import generate, greedy_continuation

from ozone.engine.sampling_params import SamplingParams


def greedy(max_tokens: int = 8, **kwargs) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens, **kwargs)


def test_a_greedy_request_gets_the_models_continuation(engines):
    output = generate(engines(), [1, 2, 3], greedy(20))
    assert output.outputs[0].token_ids == greedy_continuation([1, 2, 3], 20)
    assert output.outputs[0].finish_reason == "length"
