"""The smaller endpoints: tokens and back, health, version, start-up, schema, the page."""

from __future__ import annotations

import httpx
from server_stubs import RunningServer, make_state, serving

from ozone.server.flags import ServerSettings


def test_a_text_becomes_tokens_and_text_again(http: httpx.Client) -> None:
    answer = http.post("/tokenize", json={"model": "stub", "prompt": "hé", "return_token_strs": True}).json()
    assert answer["tokens"] == list("hé".encode())
    assert answer["count"] == 3
    assert answer["max_model_len"] == 256
    assert answer["token_strs"] == ["h", "\u00c3", "\u00a9"]
    back = http.post("/detokenize", json={"tokens": answer["tokens"]})
    assert back.json() == {"prompt": "hé"}


def test_a_conversation_becomes_the_tokens_of_its_prompt(http: httpx.Client) -> None:
    def text(**fields: object) -> str:
        answer = http.post("/tokenize", json={"messages": [{"role": "user", "content": "hi "}], **fields})
        assert answer.json()["token_strs"] is None
        return bytes(answer.json()["tokens"]).decode()

    assert text() == "<user>hi </><assistant>"
    assert text(add_generation_prompt=False) == "<user>hi </>"
    assert text(add_generation_prompt=False, continue_final_message=True) == "<user>hi"
    assert text(chat_template_kwargs={"mood": "calm"}) == "<user>hi </><assistant>calm"


def test_tokens_outside_the_vocabulary_are_refused(http: httpx.Client) -> None:
    for tokens in ([-1], [258], [1, 10**15]):
        answer = http.post("/detokenize", json={"tokens": tokens})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "tokens"


def test_a_long_text_is_tokenized_beside_the_loop(http: httpx.Client) -> None:
    answer = http.post("/tokenize", json={"prompt": "x" * 100_000})
    assert answer.json()["count"] == 100_000


def test_health_version_startup_and_page(http: httpx.Client) -> None:
    assert http.get("/health").status_code == 200
    assert http.get("/version").json()["version"]
    assert http.get("/startup").json()["phases"] == [{"name": "weights", "seconds": 0.25}]
    assert "v1/models" in http.get("/").text
    assert "/v1/completions" in http.get("/openapi.json").json()["paths"]
    assert http.get("/docs").status_code == 200


def test_the_docs_can_be_switched_off() -> None:
    with serving(make_state(settings=ServerSettings(port=0, docs=False))) as server:
        for path in ("/docs", "/redoc", "/openapi.json"):
            assert httpx.get(server.url + path).status_code == 404


def test_a_proxy_may_publish_the_server_under_a_path() -> None:
    settings = ServerSettings(port=0, root_path="/llm", api_keys=("k",))
    with serving(make_state(settings=settings)) as server:
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        schema = httpx.get(f"{server.url}/openapi.json", headers={"Authorization": "Bearer k"}).json()
        assert schema["servers"] == [{"url": "/llm"}]


def test_vllms_extra_fields_reach_the_engine(server: RunningServer, http: httpx.Client) -> None:
    def complete(**fields: object) -> dict:
        answer = http.post("/v1/completions", json={"prompt": "abc", "max_tokens": 8, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]

    assert complete(allowed_token_ids=[81], return_token_ids=True)["token_ids"] == [81] * 8
    assert complete(logit_bias={"82": 100})["text"] == "R" * 8
    assert complete(top_k=1)["text"] == complete(temperature=0)["text"]
    assert complete(min_p=1.0)["text"] == complete(temperature=0)["text"]
    stopped = complete(logit_bias={"81": 100, "82": 50}, stop_token_ids=[81], min_tokens=3)
    assert (stopped["text"], stopped["finish_reason"], stopped["stop_reason"]) == ("RRR", "stop", 81)
    ended = complete(logit_bias={"257": 100}, return_token_ids=True)
    assert (ended["finish_reason"], ended["text"]) == ("stop", "")
    assert complete(logit_bias={"257": 100}, ignore_eos=True)["finish_reason"] == "length"
    known = complete(prompt_logprobs=1, return_tokens_as_token_ids=True)["prompt_logprobs"]
    assert known[0] is None
    assert known[1]["98"]["decoded_token"] == "token_id:98"
    assert complete(return_token_ids=True)["prompt_token_ids"] == list(b"abc")


def test_the_models_own_defaults_fill_what_a_request_leaves_open() -> None:
    defaults = {"temperature": 0.0, "max_tokens": 5}
    with serving(make_state(default_sampling_params=defaults)) as server:

        def texts(**fields: object) -> set[str]:
            body = {"prompt": "x", "n": 8, **fields}
            answer = httpx.post(f"{server.url}/v1/completions", json=body).json()
            assert all(choice["finish_reason"] == "length" for choice in answer["choices"])
            return {choice["text"] for choice in answer["choices"]}

        assert len(texts()) == 1
        assert {len(text) for text in texts(max_tokens=50)} == {5}
        assert len(texts(temperature=5)) > 1


def test_token_strings_are_the_vocabularys(http: httpx.Client) -> None:
    answer = http.post("/tokenize", json={"prompt": "a b", "return_token_strs": True}).json()
    assert answer["token_strs"] == ["a", "\u0120", "b"]


def test_what_an_answer_lacks_is_null_and_not_absent(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).json()
    for name in ("token_ids", "prompt_token_ids", "prompt_logprobs", "logprobs", "stop_reason"):
        assert answer["choices"][0][name] is None
    for name in ("service_tier", "kv_transfer_params"):
        assert answer[name] is None
    messages = [{"role": "user", "content": "hi"}]
    answer = http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 1}).json()
    for name in ("prompt_logprobs", "prompt_token_ids", "service_tier", "kv_transfer_params"):
        assert answer[name] is None
    for name in ("token_ids", "logprobs", "stop_reason"):
        assert answer["choices"][0][name] is None
    for name in ("refusal", "annotations", "audio", "function_call", "reasoning"):
        assert answer["choices"][0]["message"][name] is None
