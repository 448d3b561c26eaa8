"""The collector puts deltas of several completions together, in whatever order they come."""

from __future__ import annotations

import pytest

from ozone.engine.collector import OutputCollector
from ozone.engine.outputs import Logprob, RequestDelta, RequestMetrics


def test_deltas_become_an_output():
    finished = []
    collector = OutputCollector("r", "Hello", [1, 2], n=2, on_finished=finished.append)
    last = RequestMetrics(arrival_time=1.0)
    collector.add(RequestDelta("r", 1, "a", [5], num_cached_tokens=0))
    collector.add(
        RequestDelta(
            "r", 0, "x", [6], logprobs=[{6: Logprob(-0.5)}], prompt_logprobs=[None, {2: Logprob(-1)}]
        )
    )
    collector.add(RequestDelta("r", 1, "b", [7, 8], finish_reason="stop", stop_reason="c"))
    assert not collector.finished
    assert not collector.wait(0)
    assert collector.output().outputs[0].finish_reason is None
    collector.add(
        RequestDelta("r", 0, "y", [9], logprobs=[{9: Logprob(-2.0)}], finish_reason="length", metrics=last)
    )
    assert collector.wait(0)
    assert finished == [collector]
    output = collector.output()
    assert (output.request_id, output.prompt, output.prompt_token_ids) == ("r", "Hello", [1, 2])
    assert (output.finished, output.metrics, output.num_cached_tokens) == (True, last, 0)
    assert output.prompt_logprobs == [None, {2: Logprob(-1)}]
    first, second = output.outputs
    assert (first.text, first.token_ids, first.finish_reason) == ("xy", [6, 9], "length")
    assert first.cumulative_logprob == pytest.approx(-2.5)
    assert (second.text, second.token_ids, second.stop_reason) == ("ab", [5, 7, 8], "c")
    assert second.cumulative_logprob is second.logprobs is None


def test_an_error_is_kept():
    collector = OutputCollector("r", None, [1])
    collector.add(RequestDelta("r", finish_reason="error", error="why"))
    assert collector.error == "why"
    assert collector.finished
