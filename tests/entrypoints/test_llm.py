"""`LLM` behaves as scripts written for vLLM expect."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from ozone import LLM, SamplingParams
from ozone.entrypoints.batch import GenerationError
from ozone.errors import ConfigError, OzoneError, RequestError

GREEDY = SamplingParams(temperature=0, max_tokens=6)
FRANCE = "The capital of France is"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(optimization_level=0, dtype="float32", max_model_len=256) as loaded:
        yield loaded


def test_one_text_gives_one_output_with_vllms_fields(llm: LLM) -> None:
    (output,) = llm.generate(FRANCE, GREEDY, use_tqdm=False)
    assert output.prompt == FRANCE
    assert output.finished
    completion = output.outputs[0]
    assert "Paris" in completion.text
    assert len(completion.token_ids) == 6
    assert completion.finish_reason == "length"
    assert completion.logprobs is None
    assert output.metrics is not None


def test_texts_and_token_ids_and_mappings_are_the_same_prompt(llm: LLM) -> None:
    ids = llm.get_tokenizer().encode(FRANCE)
    forms: list[Any] = [FRANCE, {"prompt": FRANCE}, {"prompt_token_ids": ids}]
    texts = {output.outputs[0].text for output in llm.generate(forms, GREEDY, use_tqdm=False)}
    assert len(texts) == 1
    (flat,) = llm.generate(ids, GREEDY, use_tqdm=False)
    assert {flat.outputs[0].text} == texts


def test_outputs_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts = [f"{number} plus one is" for number in range(12)]
    params = [SamplingParams(temperature=0, max_tokens=1 + number % 5) for number in range(12)]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    assert [output.prompt for output in outputs] == prompts
    assert [len(output.outputs[0].token_ids) for output in outputs] == [1 + n % 5 for n in range(12)]


def test_n_completions_with_a_seed_repeat_and_differ(llm: LLM) -> None:
    params = SamplingParams(n=3, temperature=1.0, seed=7, max_tokens=8)
    (first,) = llm.generate(FRANCE, params, use_tqdm=False)
    (second,) = llm.generate(FRANCE, params, use_tqdm=False)
    texts = [completion.text for completion in first.outputs]
    assert [completion.index for completion in first.outputs] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert texts == [completion.text for completion in second.outputs]


def test_logprobs_hold_the_chosen_token_and_the_likeliest(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=3, logprobs=2, prompt_logprobs=1)
    (output,) = llm.generate(FRANCE, params, use_tqdm=False)
    completion = output.outputs[0]
    assert completion.logprobs is not None
    for token_id, entry in zip(completion.token_ids, completion.logprobs, strict=True):
        assert entry[token_id].rank == 1
        assert len(entry) == 2
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)


def test_chat_renders_the_models_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    (output,) = llm.chat(messages, SamplingParams(temperature=0, max_tokens=24), use_tqdm=False)
    assert "<|im_start|>user\nWhat is the capital of France?<|im_end|>" in (output.prompt or "")
    assert "Paris" in output.outputs[0].text
    two = llm.chat([messages, messages], GREEDY, use_tqdm=False)
    assert len(two) == 2


def test_more_prompts_than_the_queue_holds_all_finish() -> None:
    with LLM(optimization_level=0, max_model_len=64, max_num_seqs=4, max_waiting_requests=3) as small:
        outputs = small.generate(["a b c"] * 20, SamplingParams(max_tokens=2), use_tqdm=False)
    assert len(outputs) == 20


def test_progress_is_shown_through_the_callable_given(llm: LLM) -> None:
    seen: list[int] = []

    class Bar:
        def __init__(self, total: int, desc: str) -> None:
            seen.append(total)

        def update(self, count: int) -> None:
            seen.append(count)

        def close(self) -> None:
            seen.append(-1)

    llm.generate(["a", "b"], GREEDY, use_tqdm=Bar)
    assert seen == [2, 1, 1, -1]


@pytest.mark.parametrize(
    ("call", "needle"),
    [
        (lambda llm: llm.generate("x " * 400, GREEDY, use_tqdm=False), "256"),
        (lambda llm: llm.generate({"text": "x"}, GREEDY, use_tqdm=False), "prompt_token_ids"),
        (lambda llm: llm.generate(["a", "b"], [GREEDY], use_tqdm=False), "1 entries for 2 prompts"),
        (lambda llm: llm.generate([10**9], GREEDY, use_tqdm=False), "1000000000"),
        (lambda llm: llm.generate("", GREEDY, use_tqdm=False), "empty"),
        (lambda llm: llm.chat([], GREEDY, use_tqdm=False), "message"),
        (lambda llm: llm.chat([[]], GREEDY, use_tqdm=False), "message"),
        (lambda llm: llm.chat(["hello"], GREEDY, use_tqdm=False), "messages"),
        (lambda llm: llm.generate(5, GREEDY, use_tqdm=False), "int"),
        (lambda llm: llm.generate([None], GREEDY, use_tqdm=False), "NoneType"),
        (lambda llm: llm.generate([[1, "a"]], GREEDY, use_tqdm=False), "'a'"),
        (lambda llm: llm.generate("x", {"max_tokens": 2}, use_tqdm=False), "SamplingParams"),
        (lambda llm: llm.generate("x", GREEDY, use_tqdm=False, lora_request="mine"), "vLLM"),
        (lambda llm: llm.generate("x", GREEDY, use_tqdm=False, unheard_of=1), "unheard_of"),
        (
            lambda llm: llm.chat([{"role": "user", "content": "x"}], chat_template_kwargs={"messages": 1}),
            "set",
        ),
    ],
)
def test_a_wrong_request_is_one_clear_line_and_the_engine_goes_on(llm: LLM, call: Any, needle: str) -> None:
    with pytest.raises(RequestError, match=needle) as caught:
        call(llm)
    assert "\n" not in str(caught.value)
    assert llm.generate(FRANCE, GREEDY, use_tqdm=False)[0].finished


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        ({"optimisation_level": 2}, "optimization_level"),
        ({"compilation_config": {"cudagraph_mod": "FULL"}}, "cudagraph_mode"),
        ({"dtype": "float17"}, "float16"),
        ({"data_parallel_size": 2}, "vLLM"),
        ({"model": "/no/such/model"}, "/no/such/model"),
    ],
)
def test_a_wrong_argument_names_the_right_one(arguments: dict[str, Any], needle: str) -> None:
    with pytest.raises(OzoneError, match=needle) as caught:
        LLM(**arguments)
    assert isinstance(caught.value, ConfigError) or "model" in arguments


def test_a_refused_prompt_is_named_and_nothing_is_generated(llm: LLM) -> None:
    before = llm.engine_stats().generation_tokens
    with pytest.raises(RequestError, match="prompt 2: "):
        llm.generate(["a", "b", ""], GREEDY, use_tqdm=False)
    assert llm.engine_stats().generation_tokens == before


def test_vllm_arguments_that_ask_for_nothing_are_let_through(llm: LLM) -> None:
    llm.generate("x", GREEDY, use_tqdm=False, lora_request=None)
    message = [{"role": "user", "content": "Hello"}]
    llm.chat(message, GREEDY, use_tqdm=False, tools=None, chat_template_content_format="auto")


def test_a_salt_keeps_prefixes_apart(llm: LLM) -> None:
    ids = list(range(100, 164))
    for salt, cached in (("a", 0), ("b", 0), ("a", 48)):
        prompt = {"prompt_token_ids": ids, "cache_salt": salt}
        assert llm.generate(prompt, GREEDY, use_tqdm=False)[0].num_cached_tokens == cached


def test_a_final_message_can_be_continued(llm: LLM) -> None:
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is"},
    ]
    (output,) = llm.chat(
        messages, GREEDY, use_tqdm=False, add_generation_prompt=False, continue_final_message=True
    )
    assert (output.prompt or "").endswith("The capital of France is")
    assert "Paris" in output.outputs[0].text


def test_a_failing_step_is_an_error_that_keeps_the_other_outputs(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = llm._loaded.engine.runner
    execute = runner.execute

    def fail_on_long(scheduled: Any, table: Any) -> Any:
        if any(len(item.request.token_ids) > 100 for item in scheduled):
            raise ArithmeticError("the sum is wrong")
        return execute(scheduled, table)

    monkeypatch.setattr(runner, "execute", fail_on_long)
    params = [SamplingParams(max_tokens=1), SamplingParams(max_tokens=120, ignore_eos=True)]
    with pytest.raises(GenerationError, match=r"1 of 2 requests failed: .*the sum is wrong") as caught:
        llm.generate([FRANCE, FRANCE], params, use_tqdm=False)
    assert [output.outputs[0].finish_reason for output in caught.value.outputs] == ["length", "error"]


def test_a_dropped_llm_stops_its_engine_and_frees_its_memory() -> None:
    dropped = LLM(optimization_level=0, max_model_len=64)
    runner = weakref.ref(dropped._loaded.engine.runner)
    del dropped
    gc.collect()
    assert runner() is None


@pytest.mark.parametrize("arguments", [{"chat_template": "{% for %}"}, {"generation_config": "/no/such"}])
def test_what_is_wrong_before_loading_leaves_no_engine_behind(arguments: dict[str, Any]) -> None:
    before = set(threading.enumerate())
    with pytest.raises(OzoneError):
        LLM(optimization_level=0, **arguments)
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "ozone-engine"]


def test_both_import_paths_are_the_same_class_and_import_no_torch() -> None:
    code = (
        "import sys; from ozone import LLM, SamplingParams; from ozone.entrypoints.llm import LLM as other; "
        "assert LLM is other; assert 'torch' not in sys.modules; assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
