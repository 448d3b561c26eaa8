"""`/metrics` has vLLM's names under our prefix, and its numbers are those of what was served."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families
from server_stubs import RunningServer, make_state, serving


def scrape(server: RunningServer) -> dict[str, float]:
    """Samples by name, labels other than the model's appended."""
    samples = {}
    for family in text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text):
        for sample in family.samples:
            labels = dict(sample.labels)
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
