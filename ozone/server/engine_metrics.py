"""The engine's own numbers as Prometheus metrics, read from its statistics when somebody scrapes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ozone.engine.outputs import STEP_TOKENS, EngineStats
from ozone.server.interfaces import EngineClient


class EngineCollector(Collector):
    """The engine's own numbers, read when scraped."""

    def __init__(self, engine: EngineClient, model_name: str) -> None:
        self._engine = engine
        self._labels = [model_name]

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        for name, text, gauge in (
            ("num_requests_running", "Requests in the running batch.", stats.num_running),
            ("num_requests_waiting", "Requests that wait for their turn.", stats.num_waiting),
            ("kv_cache_usage_perc", "Share of the KV cache in use, from 0 to 1.", stats.kv_cache_usage),
        ):
            family = GaugeMetricFamily(f"ozone:{name}", text, labels=["model_name"])
            family.add_metric(self._labels, gauge)
            yield family
        for name, text, count in (
            (
                "prefix_cache_queries",
                "Prompt tokens looked up in the prefix cache.",
                stats.prefix_cache_queries,
            ),
            ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats.prefix_cache_hits),
            ("num_preemptions", "Requests put back to wait because blocks ran out.", stats.num_preemptions),
            ("prompt_tokens", "Prompt tokens processed.", stats.prompt_tokens),
            ("generation_tokens", "Tokens generated.", stats.generation_tokens),
            ("engine_steps", "Steps of the engine.", stats.num_steps),
        ):
            counter = CounterMetricFamily(f"ozone:{name}", text, labels=["model_name"])
            counter.add_metric(self._labels, count)
            yield counter
        yield self._steps(stats)

    def _steps(self, stats: EngineStats) -> Metric:
        limits = [*map(floatToGoString, STEP_TOKENS), "+Inf"]
        buckets = list(zip(limits, itertools.accumulate(stats.steps_by_tokens), strict=True))
        steps = HistogramMetricFamily(
            "ozone:iteration_tokens_total", "Tokens of a step of the engine.", labels=["model_name"]
        )
        steps.add_metric(self._labels, buckets, stats.num_step_tokens)
        return steps
