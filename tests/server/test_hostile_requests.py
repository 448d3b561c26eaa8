"""What a client sends by mistake or malice is answered in one clear line, and hurts nobody else."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from server_stubs import RunningServer, greedy_text

from ozone.server.requests import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
)
from ozone.server.routes import REQUEST_MODELS

PATHS: dict[type[BaseModel], str] = {
    CompletionRequest: "/v1/completions",
    ChatCompletionRequest: "/v1/chat/completions",
    TokenizeTextRequest: "/tokenize",
    TokenizeChatRequest: "/tokenize",
    DetokenizeRequest: "/detokenize",
}
JSON = {"content-type": "application/json"}


def refused(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of an answer, which must have OpenAI's shape and fit a line."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    assert len(error["message"]) < 400
    return error


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", None),
        ("prompt", ""),
        ("prompt", []),
        ("prompt", [[]]),
        ("prompt", ["a", 1]),
        ("prompt", [-1]),
        ("prompt", [258]),
        ("prompt", [10**30]),
        ("prompt", [True]),
        ("prompt", [1.5]),
        ("prompt", {"text": "x"}),
        ("prompt", ["x"] * 3000),
        ("n", 0),
        ("n", 10**9),
        ("n", 1.5),
        ("n", "one"),
        ("n", True),
        ("n", "1000"),
        ("max_tokens", "5 "),
        ("max_tokens", 5.5),
        ("max_tokens", "9" * 400),
        ("max_tokens", 1e300),
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 10**18),
        ("max_tokens", 10**30),
        ("min_tokens", 99),
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("seed", 1.5),
        ("stop", 7),
        ("stop", [""]),
        ("stop", [["a"]]),
        ("stop", ["x"] * 257),
        ("stop", "x" * 16385),
        ("bad_words", ["x" * 9000] * 2),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [10**6]),
        ("stop_token_ids", "x"),
        ("allowed_token_ids", []),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"9999": 1}),
        ("logit_bias", {"1": "two"}),
        ("logit_bias", {"1": "1e999"}),
        ("stop_token_ids", ["1.5"]),
        ("allowed_token_ids", [True]),
        ("logit_bias", [1]),
        ("logprobs", 1000),
        ("logprobs", -5),
        ("prompt_logprobs", 10**6),
        ("priority", "high"),
        ("priority", 1),
        ("cache_salt", ""),
        ("cache_salt", 5),
        ("spaces_between_special_tokens", False),
        ("thinking_token_budget", 0),
        ("flat_logprobs", True),
        ("repetition_detection", {"max_pattern_size": 4}),
        ("extra_args", {"a": 1}),
        ("vllm_xargs", {"a": 1}),
        ("skip_reading_prefix_cache", True),
        ("detokenize", False),
        ("echo", "perhaps"),
        ("stream", "perhaps"),
        ("stream", 2),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("seed", 10**30),
        ("temperature", "1e400"),
        ("temperature", "nan"),
        ("typical_p", 0.5),
        ("grammar", "root ::= 'a'"),
        ("json_schema", {}),
        ("regex", "a+"),
        ("ebnf", ""),
        ("guided_json", {}),
        ("guided_choice", []),
        ("structured_outputs", {}),
        ("mirostat", 2),
        ("repeat_penalty", 0),
        ("truncate_prompt_tokens", -2),
        ("truncate_prompt_tokens", 255),
        ("truncate_prompt_tokens", 0),
        ("truncation_side", "middle"),
        ("logprob_token_ids", [1]),
        ("logprob_token_ids", [1] * 1025),
        ("stream_interval", 0),
        ("stream_options", {"include_usage": True}),
        ("best_of", 2),
        ("suffix", " the end"),
        ("response_format", {"type": "json_object"}),
        ("model", 5),
    ],
)
def test_a_bad_completion_field_is_refused(http: httpx.Client, field: str, value: Any) -> None:
    body = {"model": "stub", "prompt": "abc", "max_tokens": 2, field: value}
    error = refused(http.post("/v1/completions", json=body))
    assert error["type"] == "invalid_request_error"
    assert field in (error["param"] or "") or field in error["message"] or field == "min_tokens"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", []),
        ("messages", "hi"),
        ("messages", [{"content": "no role"}]),
        ("messages", [{"role": 5, "content": "x"}]),
        ("messages", [{"role": "user", "content": 5}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        ("messages", [{"role": "user", "content": [{"type": "x" * 10_000}]}]),
        ("messages", [{"role": "user", "content": [5]}]),
        ("messages", [{"role": "user", "content": [{"type": "text"}]}]),
        ("messages", [{"role": "forbidden", "content": "x"}]),
        ("max_completion_tokens", 0),
        ("top_logprobs", 2),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tools", ["f"]),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("include_reasoning", False),
        ("reasoning_effort", "enormous"),
        ("logprob_token_ids", [97]),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("audio", {"voice": "x"}),
        ("modalities", ["text", "audio"]),
        ("echo", True),
        ("chat_template", "{{ messages }}"),
        ("chat_template_kwargs", {"messages": []}),
        ("chat_template_kwargs", []),
        ("continue_final_message", True),
        ("best_of", 2),
        ("cache_salt", ""),
        ("thinking_token_budget", 100),
    ],
)
def test_a_bad_chat_field_is_refused(http: httpx.Client, field: str, value: Any) -> None:
    messages = [{"role": "user", "content": "hi"}]
    error = refused(http.post("/v1/chat/completions", json={"messages": messages, field: value}))
    assert field in (error["param"] or "") or field in error["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "someone", "store": True, "metadata": {"a": "b"}, "service_tier": "auto"},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"]},
        {"parallel_tool_calls": True, "reasoning_effort": "low", "unheard_of": [1, {"x": None}]},
        {"stop": None, "seed": None, "temperature": None, "stream": None, "n": 1, "logit_bias": None},
        {"spaces_between_special_tokens": True, "detokenize": True, "flat_logprobs": False, "best_of": 1},
        {"typical_p": 1.0, "grammar": "", "mirostat": 0, "include_reasoning": True, "top_logprobs": 0},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
        {"stream_options": {}, "length_penalty": 2.0, "seed": -(2**63), "reasoning_effort": "none"},
        {"max_tokens": "5", "temperature": "0.5", "n": "1", "top_k": 3.0, "stream": "false", "logprobs": 1},
        {"skip_reading_prefix_cache": False, "thinking_token_budget": None, "cache_salt": "salt"},
    ],
)
def test_harmless_fields_are_accepted(http: httpx.Client, fields: dict[str, Any]) -> None:
    body = {"model": "stub", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **fields}
    assert http.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize("model", REQUEST_MODELS)
def test_null_means_what_leaving_a_field_out_does(http: httpx.Client, model: type[BaseModel]) -> None:
    examples = {"prompt": "abc", "messages": [{"role": "user", "content": "hi"}], "tokens": [97]}
    body = {name: examples[name] for name, field in model.model_fields.items() if field.is_required()}
    nulls = dict.fromkeys(model.model_fields.keys() - body.keys())
    assert model.model_validate(body | nulls).model_dump() == model.model_validate(body).model_dump()
    answer = http.post(PATHS[model], json=body | nulls)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_of_no_tokens_is_refused_before_it_is_echoed(http: httpx.Client, stream: bool) -> None:
    for token_id in (-2333238, 258, 10**30):
        body = {"prompt": [[97, token_id]], "echo": True, "stream": stream}
        assert refused(http.post("/v1/completions", json=body))["param"] == "prompt"


def test_a_limit_on_strings_says_both_halves(http: httpx.Client) -> None:
    error = refused(http.post("/v1/completions", json={"prompt": "x", "stop": "x" * 16385}))
    assert "at most 256 strings, together at most 16384 characters" in error["message"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "temperature": Infinity}',
        b'{"prompt": "x", "temperature": 1e999}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\u0000"',
        b"[" * 100_000,
        b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"prompt": "x", "extra": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}",
    ],
)
def test_a_body_that_is_no_sound_json_object_is_refused(http: httpx.Client, content: bytes) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        refused(http.post(path, content=content, headers=JSON))


def test_a_body_of_another_type_is_refused(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", content=b'{"prompt": "x"}', headers={"content-type": "text/plain"})
    assert "application/json" in refused(answer, 415)["message"]


def test_an_unknown_path_and_a_wrong_method_are_answered_in_style(http: httpx.Client) -> None:
    assert "/v1/nothing" in refused(http.get("/v1/nothing"), 404)["message"]
    answer = http.get("/v1/completions")
    refused(answer, 405)
    assert answer.headers["allow"] == "POST"


def test_an_error_names_the_path_of_the_field(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "user", "content": 5}]
    error = refused(http.post("/v1/chat/completions", json={"messages": messages}))
    assert error["message"].startswith("messages[1].content: expected a string")
    assert error["param"] == "messages"
    error = refused(http.post("/v1/completions", json={}))
    assert error["message"] == "prompt: the field is required"


def test_a_control_character_in_a_prompt_is_a_character(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json={"prompt": "a\u0000b", "max_tokens": 3, "temperature": 0})
    assert answer.json()["choices"][0]["text"] == greedy_text("a\u0000b", 3)


def test_a_prompt_far_longer_than_the_context_is_refused_by_its_beginning(
    server: RunningServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 0
    encode = server.state.tokenizer.encode

    def watched(text: str, add_special_tokens: bool = True) -> list[int]:
        nonlocal longest
        longest = max(longest, len(text))
        return encode(text, add_special_tokens)

    monkeypatch.setattr(server.state.tokenizer, "encode", watched)
    message = [{"role": "user", "content": "x" * 1_000_000}]
    for path, body in (
        ("/v1/completions", {"prompt": ["a", "x" * 1_000_000]}),
        ("/v1/chat/completions", {"messages": message}),
    ):
        assert "the context holds 256" in refused(http.post(path, json=body))["message"]
    assert longest == 16 * 256


def test_the_server_is_well_after_all_that(server: RunningServer, http: httpx.Client) -> None:
    server.wait_until_idle()
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize("name", ["x" * 100_000, "\x1b[2J\n", "\u202e" * 2000])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
def test_the_name_of_a_model_is_quoted_short_and_escaped(http: httpx.Client, path: str, name: str) -> None:
    fields = {"prompt": "a", "messages": [{"role": "user", "content": "a"}], "tokens": [97]}
    wanted = {"/detokenize": ["tokens"], "/v1/chat/completions": ["messages"]}.get(path, ["prompt"])
    body = {"model": name, **{field: fields[field] for field in wanted}}
    error = refused(http.post(path, json=body), 404)
    assert error["message"].isprintable() and "served: stub" in error["message"]
