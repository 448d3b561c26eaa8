"""`/metrics` has vLLM's names under our prefix, and its numbers are those of what was served."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from server_stubs import RunningServer, make_state, serving

from ozone.server.flags import ServerSettings


def scrape(server: RunningServer) -> dict[str, float]:
    """Samples by name, labels other than the model's appended."""
    samples = {}
    for family in text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text):
        for sample in family.samples:
            labels = dict(sample.labels)
            if sample.name.startswith("ozone:"):
                assert labels.pop("model_name") == "stub"
            if "le" not in labels:
                samples[":".join([sample.name, *labels.values()])] = sample.value
    return samples


def test_what_was_served_is_counted() -> None:
    with serving(make_state()) as server:
        for _ in range(2):
            body = {"prompt": "x" * 40, "max_tokens": 7, "n": 2}
            assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200
        httpx.post(f"{server.url}/v1/completions", json={"prompt": "x", "allowed_token_ids": [257]})
        server.wait_until_idle()
        samples = scrape(server)
    assert samples["ozone:num_requests_running"] == 0
    assert samples["ozone:num_requests_waiting"] == 0
    assert samples["ozone:kv_cache_usage_perc"] == 0
    assert samples["ozone:prompt_tokens_total"] == 81
    assert samples["ozone:generation_tokens_total"] == 29
    assert samples["ozone:prefix_cache_hits_total"] >= 32
    assert samples["ozone:prefix_cache_queries_total"] >= samples["ozone:prefix_cache_hits_total"]
    assert samples["ozone:num_preemptions_total"] == 0
    assert samples["ozone:request_success_total:length"] == 4
    assert samples["ozone:request_success_total:stop"] == 1
    assert samples["ozone:time_to_first_token_seconds_count"] == 5
    assert samples["ozone:inter_token_latency_seconds_count"] == 24
    assert samples["ozone:request_time_per_output_token_seconds_count"] == 4
    assert samples["ozone:e2e_request_latency_seconds_count"] == 5
    assert samples["ozone:request_queue_time_seconds_count"] == 5
    assert samples["ozone:request_prefill_time_seconds_count"] == 5
    assert samples["ozone:request_decode_time_seconds_count"] == 5
    assert samples["ozone:request_inference_time_seconds_count"] == 5
    assert samples["ozone:request_prompt_tokens_sum"] == 161
    assert samples["ozone:request_generation_tokens_sum"] == 29
    assert samples["ozone:request_params_n_sum"] == 9
    assert samples["ozone:request_max_num_generation_tokens_sum"] == 7 + 7 + 1
    assert 0 < samples["ozone:prompt_tokens_cached_total"] < samples["ozone:prefix_cache_hits_total"]
    cached = samples["ozone:prompt_tokens_by_source_total:local_cache_hit"]
    assert cached + samples["ozone:prompt_tokens_by_source_total:local_compute"] == 81
    assert samples["ozone:request_prefill_kv_computed_tokens_sum"] == 81 - cached
    assert samples["ozone:iteration_tokens_total_count"] == samples["ozone:engine_steps_total"]
    assert samples["ozone:iteration_tokens_total_sum"] >= 29
    assert samples["ozone:request_params_max_tokens_sum"] == 4 * 7 + 16
    assert (
        samples["ozone:e2e_request_latency_seconds_sum"] >= samples["ozone:time_to_first_token_seconds_sum"]
    )


def test_a_request_that_was_left_counts_as_aborted() -> None:
    with serving(make_state()) as server:
        server.runner.delay = 0.05
        body = {"prompt": "x", "max_tokens": 200, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as answer:
            lines = answer.iter_lines()  # kept: when it goes, the connection goes
            next(lines)
            assert scrape(server)["ozone:num_requests_running"] == 1
            assert scrape(server)["ozone:kv_cache_usage_perc"] > 0
        server.wait_until_idle()
        assert scrape(server)["ozone:request_success_total:abort"] == 1


def test_every_app_counts_for_itself(server: RunningServer) -> None:
    with serving(make_state()) as other:
        assert scrape(other)["ozone:generation_tokens_total"] == 0


def test_the_process_is_measured(server: RunningServer) -> None:
    samples = scrape(server)
    for name in ("resident_memory_bytes", "open_fds", "max_fds", "cpu_seconds_total", "start_time_seconds"):
        assert samples[f"process_{name}"] > 0


def test_http_requests_are_counted_by_route_and_nothing_of_a_clients_is_a_label() -> None:
    with serving(make_state(settings=ServerSettings(port=0, api_keys=("k",), root_path="/llm"))) as server:
        key = {"Authorization": "Bearer k"}
        for path in ("/llm/v1/models", "/v1/models/stub", "/v1/models/none", "/wp-admin.php", "/health"):
            httpx.get(server.url + path, headers=key)
        httpx.get(f"{server.url}/v1/models")
        httpx.request("BREW", f"{server.url}/v1/models", headers=key)
        body = {"prompt": "a", "max_tokens": 2, "stream": True}
        httpx.post(f"{server.url}/v1/completions", json=body, headers=key)
        page = httpx.get(f"{server.url}/metrics", headers=key).text
    counts = dict(re.findall(r"^http_requests_total\{(.*)\} (\S+)$", page, re.MULTILINE))
    assert counts == {
        'handler="/v1/models",method="GET",status="2xx"': "1.0",
        'handler="/v1/models/{model:path}",method="GET",status="2xx"': "1.0",
        'handler="/v1/models/{model:path}",method="GET",status="4xx"': "1.0",
        'handler="none",method="GET",status="4xx"': "2.0",
        'handler="/v1/models",method="OTHER",status="4xx"': "1.0",
        'handler="/v1/completions",method="POST",status="2xx"': "1.0",
    }
    assert 'http_request_duration_seconds_count{handler="/v1/completions",method="POST"} 1.0' in page
    assert "http_request_duration_highr_seconds_count 7.0" in page
    assert re.search(r'http_request_size_bytes_sum\{handler="/v1/completions"\} [1-9]', page)


def test_vllms_names_are_there_where_they_are_asked_for(server: RunningServer) -> None:
    assert "vllm:" not in httpx.get(f"{server.url}/metrics").text
    settings = ServerSettings(port=0, vllm_metrics=True)
    state = make_state(settings=settings, cache_info={"block_size": "16", "num_gpu_blocks": "512"})
    with serving(state) as other:
        httpx.post(f"{other.url}/v1/completions", json={"prompt": "abc", "max_tokens": 3, "ignore_eos": True})
        page = httpx.get(f"{other.url}/metrics").text
    labels = '{engine="0",model_name="stub"}'
    for line in (
        f"vllm:num_requests_running{labels} 0.0",
        f"vllm:gpu_cache_usage_perc{labels} 0.0",
        f"vllm:prompt_tokens_total{labels} 3.0",
        f"vllm:generation_tokens_total{labels} 3.0",
        f"vllm:time_to_first_token_seconds_count{labels} 1.0",
        f"vllm:time_per_output_token_seconds_count{labels} 2.0",
        'vllm:request_success_total{engine="0",finished_reason="length",model_name="stub"} 1.0',
        'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="512"} 1.0',
        'ozone:cache_config_info{block_size="16",num_gpu_blocks="512"} 1.0',
    ):
        assert line in page.splitlines()
    list(text_string_to_metric_families(page))


def test_the_docs_name_every_metric(server: RunningServer) -> None:
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
    names = set(
        re.findall(r"^# TYPE (?:ozone:)?(\w+)", httpx.get(f"{server.url}/metrics").text, re.MULTILINE)
    )
    known = {name for name in names if not name.endswith("_created")}
    prefixes = ("process_", "python_")
    assert {name for name in known if not name.startswith(prefixes) and name not in page} == set()
