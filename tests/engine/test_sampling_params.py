"""Sampling parameters are checked when they are made, and every mistake names its field in one line."""

from __future__ import annotations

import copy
import inspect
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ozone.engine.sampling_params import SamplingParams
from ozone.errors import RequestError


def refusal(**kwargs) -> RequestError:
    with pytest.raises(RequestError) as error:
        SamplingParams(**kwargs)
    assert "\n" not in str(error.value)
    return error.value


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "n": [0, -1, 1.5, "1", None, True],
        "presence_penalty": [-2.1, 2.1, math.nan, "0", None],
        "frequency_penalty": [-2.1, 2.1, math.inf],
        "repetition_penalty": [0, -1, 1e-4, 1e4, math.inf, math.nan],
        "temperature": [-0.1, math.nan, math.inf, "hot", None, 10**400],
        "top_p": [0, -0.1, 1.1, math.nan],
        "top_k": [-2, 0.5, "5"],
        "min_p": [-0.1, 1.1],
        "seed": [1.5, "1", 2**63, -(2**63) - 1, 10**5000],
        "logprob_token_ids": ["x", [-1], [1] * 1025, 5],
        "max_tokens": [0, -1, 1.0, 10**5000],
        "min_tokens": [-1, 17],
        "logprobs": [-2, True, 1.0],
        "prompt_logprobs": [-2, True],
        "stop": ["", ["a", ""], [1], 5],
        "stop_token_ids": [[-1], ["a"], "12", 3, [1.0]],
        "allowed_token_ids": [[], [-1], 5],
        "logit_bias": [[1], {"a": 1}, {-1: 1}, {1: math.nan}, {1: "x"}, {"9" * 5000: 1}],
        "bad_words": ["word", [""], [3]],
        "ignore_eos": [1, "yes", None],
        "detokenize": ["no"],
        "skip_special_tokens": [0],
        "include_stop_str_in_output": [None],
    }.items(),
)
def test_bad_values_are_refused_by_name(name, values):
    for value in values:
        error = refusal(**{name: value})
        assert error.param == name
        assert name in str(error)
        assert len(str(error)) < 200
        assert "\n" not in str(error)


def test_stop_strings_need_text():
    assert refusal(stop="x", detokenize=False).param == "stop"


@pytest.mark.parametrize(
    "name", ["structured_outputs", "best_of", "logits_processors", "extra_args", "truncate_prompt_tokens"]
)
def test_what_vllm_has_and_ozone_has_not_says_so(name):
    error = refusal(**{name: 1})
    assert str(error) == f"vLLM has the sampling parameter {name}; Ozone does not"
    assert error.param == name


def test_vllms_arguments_may_be_passed_with_the_value_that_means_unused():
    params = SamplingParams(structured_outputs=None, use_beam_search=False, extra_args=None, top_k=3)
    assert params == SamplingParams(top_k=3)


def test_an_unknown_argument_names_the_nearest():
    assert str(refusal(max_token=1)) == "there is no sampling parameter max_token; did you mean max_tokens?"
    assert str(refusal(zzz=1)) == "there is no sampling parameter zzz"


def test_values_are_brought_to_one_form():
    params = SamplingParams(
        stop="x",
        top_k=-1,
        seed=-1,
        logit_bias={"3": 200, 4: -1},
        stop_token_ids=(np.int64(5),),
        temperature=1,
    )
    assert params.stop_strings == ("x",)
    assert (params.top_k, params.seed, params.stop_token_ids) == (0, None, [5])
    assert params.logit_bias == {3: 100.0, 4: -1.0}
    assert isinstance(params.temperature, float)
    assert SamplingParams(stop=["a", "b"]).stop_strings == ("a", "b")


def test_defaults_are_shared_by_nobody():
    params = SamplingParams(stop=["a"], stop_token_ids=[1], logit_bias={1: 1.0}, allowed_token_ids=[1])
    clone = params.clone()
    assert clone == params
    clone.stop.append("b")
    clone.stop_token_ids.append(2)
    clone.logit_bias[2] = 2.0
    clone.allowed_token_ids.append(2)
    assert params == SamplingParams(
        stop=["a"], stop_token_ids=[1], logit_bias={1: 1.0}, allowed_token_ids=[1]
    )


def test_a_value_changed_afterwards_is_checked_when_the_parameters_are_cloned():
    params = SamplingParams()
    params.temperature = -1
    with pytest.raises(RequestError, match="temperature"):
        params.clone()


def test_parameters_can_be_copied_pickled_and_inspected():
    params = SamplingParams(stop=["a"], seed=4)
    assert copy.deepcopy(params) == pickle.loads(pickle.dumps(params)) == params
    assert list(inspect.signature(SamplingParams).parameters)[:3] == [
        "n",
        "presence_penalty",
        "frequency_penalty",
    ]


@given(
    st.dictionaries(
        st.sampled_from(list(inspect.signature(SamplingParams).parameters)),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(),
            st.lists(st.integers() | st.text()),
        ),
    )
)
def test_any_arguments_are_accepted_or_refused_by_name(arguments):
    refused_for = None
    try:
        SamplingParams(**arguments).clone()
    except RequestError as error:
        refused_for = error.param
    assert refused_for in {None, "min_tokens", *arguments}


@pytest.mark.parametrize("name", ["temperature", "top_k", "n", "ignore_eos", "stop_token_ids", "logit_bias"])
def test_a_refused_value_is_quoted_short_and_escaped(name: str) -> None:
    wrong = ["x" * 100_000, "\x1b[2J", ["x" * 100_000], [["\x1b"]] * 10_000, {"\x1b" + "a" * 9000: 1}]
    for value in [*wrong, -(10**4000)]:
        message = str(refusal(**{name: value}))
        assert message.isprintable() and len(message) < 300
