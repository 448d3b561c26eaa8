"""The sampling flags cover SamplingParams and say what it says."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ozone.cli.logprobs import logprobs_json, logprobs_lines
from ozone.cli.sampling_flags import SAMPLING_FLAGS, add_sampling_arguments, sampling_changes
from ozone.config.command_line import ArgumentParser, add_engine_arguments
from ozone.engine.outputs import Logprob
from ozone.engine.sampling_params import SamplingParams

# The engine's --seed seeds every request; a terminal without text shows nothing.
WITHOUT_FLAG = {"seed", "detokenize"}


def changes(*words: str) -> dict[str, Any]:
    parser = ArgumentParser(prog="x")
    parser.add_argument("prompt", nargs="?")
    add_sampling_arguments(parser)
    add_engine_arguments(parser, model="flag")
    return sampling_changes(parser.parse_args(list(words)))


def test_every_field_has_a_flag_but_two() -> None:
    fields = {field.name for field in dataclasses.fields(SamplingParams) if field.init}
    assert set(SAMPLING_FLAGS) == fields - WITHOUT_FLAG
    assert fields >= WITHOUT_FLAG


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--stop-token-ids", "1,2"], {"stop_token_ids": [1, 2]}),
        (["--stop_token_ids=[1, 2]"], {"stop_token_ids": [1, 2]}),
        (["--allowed-token-ids", "7", "prompt"], {"allowed_token_ids": [7]}),
        (["--skip-special-tokens"], {"skip_special_tokens": True}),
        (["--no-skip-special-tokens"], {"skip_special_tokens": False}),
        (["--skip-special-tokens=false"], {"skip_special_tokens": False}),
        (["--include-stop-str-in-output"], {"include_stop_str_in_output": True}),
        (["--ignore-eos"], {"ignore_eos": True}),
        (["--logit-bias", '{"5": -100, "6": 1.5}'], {"logit_bias": {"5": -100, "6": 1.5}}),
        (["--prompt-logprobs", "0"], {"prompt_logprobs": 0}),
        (["--bad-words", "a b", "--bad-words=c"], {"bad_words": ["a b", "c"]}),
        (["--stop", "x", "--stop", "y"], {"stop": ["x", "y"]}),
        (["prompt"], {}),
    ],
)
def test_flags_set_fields(words: list[str], expected: dict[str, Any]) -> None:
    found = changes(*words)
    assert found == expected
    SamplingParams(**found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stop-token-ids", "a"], "a list of token ids: a is not an integer"),
        (["--stop-token-ids=-1"], "a list of token ids: -1 is not allowed; it must be at least 0"),
        (["--logit-bias", "5"], "--logit-bias: 5 is not a JSON object"),
        (["--max-tokens", "9" * 5000], "--max-tokens"),
    ],
)
def test_a_wrong_value_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        changes(*words)
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1


def test_logprobs_are_shown_by_likelihood_with_a_star_at_the_token() -> None:
    step = {3: Logprob(-2.0, 2, "b"), 1: Logprob(-0.5, 1, "a")}
    lines = list(logprobs_lines([9, 3], [None, step], {9: "z"}.__getitem__))
    assert lines == ["  *'z'", "  'a' -0.500  *'b' -2.000"]
    first = {"token_id": 1, "token": "a", "logprob": -0.5, "rank": 1}
    second = {"token_id": 3, "token": "b", "logprob": -2.0, "rank": 2}
    assert logprobs_json([None, step]) == [None, [first, second]]
    assert logprobs_json(None) is None
