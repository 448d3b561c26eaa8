"""Prometheus metrics under vLLM's names and meanings, with the prefix ``ozone:``.

What concerns single requests is observed as their deltas pass through the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from ozone.engine.outputs import RequestDelta, RequestMetrics
from ozone.server.engine_metrics import EngineCollector
from ozone.server.http_metrics import HttpMetrics
from ozone.server.interfaces import EngineClient
from ozone.server.vllm_metrics import VllmNames

_TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_TOKEN_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_REQUEST_BUCKETS = (
    0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_SOURCES = ("local_compute", "local_cache_hit")
_FINISH_REASONS = ("stop", "length", "abort", "error")


def _one_two_five(largest: int) -> list[float]:
    """1, 2, 5, 10, 20, ... up to `largest`."""
    steps: list[float] = []
    power = 1
    while power <= largest:
        steps += [float(power * factor) for factor in (1, 2, 5) if power * factor <= largest]
        power *= 10
    return steps


class ServerMetrics:
    """The metrics of one app, in a registry of its own."""

    def __init__(
        self,
        engine: EngineClient,
        model_name: str,
        max_model_len: int,
        *,
        cache_info: Mapping[str, str] | None = None,
        vllm_names: bool = False,
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(engine, model_name))
        # This process and its interpreter, as every Python program reports them.
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self.http = HttpMetrics(self._registry)
        self._aliases = CollectorRegistry()
        if vllm_names:
            self._aliases.register(VllmNames(self._registry))
        if cache_info:
            info = Gauge(
                "ozone:cache_config_info",
                "How the KV cache is set up; always 1.",
                list(cache_info),
                registry=self._registry,
            )
            info.labels(**cache_info).set(1)
        self._add_histograms(model_name, _one_two_five(max_model_len))
        self._add_counters(model_name)

    def _add_histograms(self, model_name: str, lengths: list[float]) -> None:
        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            family = Histogram(
                f"ozone:{name}", text, ["model_name"], buckets=buckets, registry=self._registry
            )
            return family.labels(model_name)

        self.time_to_first_token = histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", _TTFT_BUCKETS
        )
        self.inter_token_latency = histogram(
            "inter_token_latency_seconds", "Between the tokens of a completion.", _TOKEN_BUCKETS
        )
        self.time_per_output_token = histogram(
            "request_time_per_output_token_seconds",
            "Mean time per token after the first, one value per completion.",
            _TOKEN_BUCKETS,
        )
        self.e2e_latency = histogram(
            "e2e_request_latency_seconds", "From arrival to the last token.", _REQUEST_BUCKETS
        )
        self.queue_time = histogram(
            "request_queue_time_seconds", "From arrival to the first step.", _REQUEST_BUCKETS
        )
        self.prefill_time = histogram(
            "request_prefill_time_seconds", "From the first step to the first token.", _REQUEST_BUCKETS
        )
        self.decode_time = histogram(
            "request_decode_time_seconds", "From the first token to the last.", _REQUEST_BUCKETS
        )
        self.inference_time = histogram(
            "request_inference_time_seconds", "From the first step to the last token.", _REQUEST_BUCKETS
        )
        self.prompt_len = histogram("request_prompt_tokens", "Prompt tokens of a request.", lengths)
        self.generation_len = histogram("request_generation_tokens", "Tokens of a completion.", lengths)
        self.params_n = histogram("request_params_n", "The field n.", (1, 2, 5, 10, 20))
        self.params_max_tokens = histogram(
            "request_params_max_tokens", "The field max_tokens, or what stands for it.", lengths
        )
        self.prefill_computed = histogram(
            "request_prefill_kv_computed_tokens", "Prompt tokens that were not in the cache.", lengths
        )
        self.longest_generation = histogram(
            "request_max_num_generation_tokens", "Tokens of a prompt's longest completion.", lengths
        )

    def _add_counters(self, model_name: str) -> None:
        self.prompt_tokens_cached = Counter(
            "ozone:prompt_tokens_cached",
            "Prompt tokens found in the prefix cache.",
            ["model_name"],
            registry=self._registry,
        ).labels(model_name)
        sources = Counter(
            "ozone:prompt_tokens_by_source",
            "Prompt tokens, by where their keys and values came from.",
            ["model_name", "source"],
            registry=self._registry,
        )
        self.prompt_tokens_by_source = {name: sources.labels(model_name, name) for name in _SOURCES}
        finished = Counter(
            "ozone:request_success",
            "Completions that ended, by reason.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self.finished = {reason: finished.labels(model_name, reason) for reason in _FINISH_REASONS}

    def observe(self, prompt_len: int, n: int, max_tokens: int, arrival_time: float) -> list[RequestObserver]:
        """Follow the `n` completions of a prompt."""
        lengths: list[int] = []
        return [RequestObserver(self, prompt_len, n, max_tokens, arrival_time, lengths) for _ in range(n)]

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry) + generate_latest(self._aliases)


class RequestObserver:
    """Follows one completion from its arrival to its end. Times are of `time.monotonic`."""

    def __init__(
        self,
        metrics: ServerMetrics,
        prompt_len: int,
        n: int,
        max_tokens: int,
        arrival_time: float,
        lengths: list[int],
    ) -> None:
        self._metrics = metrics
        self._prompt_len = prompt_len
        self._n = n
        self._max_tokens = max_tokens
        self._arrival = arrival_time
        self._first: float | None = None
        self._last = arrival_time
        self._num_tokens = 0
        self._lengths = lengths  # of the prompt's completions that have ended

    def delta(self, delta: RequestDelta, now: float) -> None:
        """Take what one step added to the completion."""
        metrics = self._metrics
        if delta.token_ids:
            if self._first is None:
                self._first = now
                metrics.time_to_first_token.observe(now - self._arrival)
                if delta.index == 0:  # which computed the prompt for all
                    self._observe_prompt(delta.num_cached_tokens or 0)
            else:
                metrics.inter_token_latency.observe(now - self._last)
            self._last = now
            self._num_tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self._finish(delta.finish_reason, now)
            if delta.metrics is not None:
                self._observe_phases(delta.metrics)

    def aborted(self) -> None:
        """The server itself ends the completion."""
        self._metrics.finished["abort"].inc()

    def _observe_prompt(self, cached: int) -> None:
        metrics = self._metrics
        metrics.prompt_tokens_cached.inc(cached)
        metrics.prompt_tokens_by_source["local_cache_hit"].inc(cached)
        metrics.prompt_tokens_by_source["local_compute"].inc(self._prompt_len - cached)
        metrics.prefill_computed.observe(self._prompt_len - cached)

    def _finish(self, reason: str, now: float) -> None:
        metrics = self._metrics
        metrics.finished[reason].inc()
        metrics.e2e_latency.observe(now - self._arrival)
        metrics.prompt_len.observe(self._prompt_len)
        metrics.generation_len.observe(self._num_tokens)
        metrics.params_n.observe(self._n)
        metrics.params_max_tokens.observe(self._max_tokens)
        self._lengths.append(self._num_tokens)
        if len(self._lengths) == self._n:
            metrics.longest_generation.observe(max(self._lengths))
        if self._first is not None and self._num_tokens > 1:
            metrics.time_per_output_token.observe((self._last - self._first) / (self._num_tokens - 1))

    def _observe_phases(self, times: RequestMetrics) -> None:
        scheduled, first, last = times.first_scheduled_time, times.first_token_time, times.last_token_time
        if scheduled is not None:
            self._metrics.queue_time.observe(scheduled - times.arrival_time)
        if scheduled is not None and first is not None and last is not None:
            self._metrics.prefill_time.observe(first - scheduled)
            self._metrics.decode_time.observe(last - first)
            self._metrics.inference_time.observe(last - scheduled)
