"""Prompts are taken in smaller chunks beside streams, if steps take too long."""

from __future__ import annotations

import time

import pytest
from engine_stubs import StubRunner, generate, greedy_continuation, make_engine, submit

from ozone.engine.sampling_params import SamplingParams
from ozone.engine.step_pace import StepPace


@pytest.mark.parametrize(
    ("steps", "most"),
    [
        ([], 512),
        ([(512, 0.2)], 512),
        ([(512, 0.6)], 256),
        ([(512, 0.6), (256, 0.3)], 256),
        ([(512, 60.0)], 64),
        ([(512, 0.6), (1, 5.0)], 256),  # a step of a few tokens says nothing about many
        ([(512, 60.0)] + [(64, 0.02)] * 20, 512),
    ],
)
def test_a_chunk_fits_the_time_that_steps_took(steps: list[tuple[int, float]], most: int) -> None:
    pace = StepPace(0.3)
    for num_tokens, seconds in steps:
        pace.record(num_tokens, seconds)
    assert pace.most_tokens(512) == most


def test_long_prompts_beside_a_stream_come_in_smaller_chunks(request: pytest.FixtureRequest) -> None:
    """Alone a prompt takes the whole step; beside a stream, what fits the time. Answers are the same."""
    sizes: list[tuple[int, int]] = []  # requests in a step, tokens of its largest part

    class SlowRunner(StubRunner):
        def execute(self, scheduled, table=None):
            sizes.append((len(scheduled), max(item.num_tokens for item in scheduled)))
            return super().execute(scheduled, table)

    engine = make_engine(
        SlowRunner(num_blocks=256), max_model_len=1024, max_num_batched_tokens=256, max_num_seqs=8
    )
    request.addfinalizer(engine.shutdown)
    engine.limit_steps(1e-9)  # any step takes longer than that
    prompt = [3 + number % 5 for number in range(500)]
    generate(engine, prompt, SamplingParams(temperature=0, max_tokens=1))
    assert max(size for _, size in sizes) == 256
    sizes.clear()
    stream = submit(engine, "stream", [3], SamplingParams(temperature=0, max_tokens=400, ignore_eos=True))
    while not stream.output().outputs[0].token_ids:
        time.sleep(0.001)
    other = [7, *prompt]
    output = generate(engine, other, SamplingParams(temperature=0, max_tokens=2), "other")
    assert stream.wait(20)
    assert max(size for number, size in sizes if number > 1) <= 64
    assert output.outputs[0].token_ids == greedy_continuation(other, 2)
