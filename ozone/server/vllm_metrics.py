"""Ozone's metrics under vLLM's names, for dashboards that know them: the same values, not counted again."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

_OURS = "ozone:"
# What vLLM calls ours besides the plain `vllm:` name: names of its earlier versions.
_EARLIER_NAMES = {
    "kv_cache_usage_perc": "gpu_cache_usage_perc",
    "prefix_cache_queries": "gpu_prefix_cache_queries",
    "prefix_cache_hits": "gpu_prefix_cache_hits",
    "inter_token_latency_seconds": "time_per_output_token_seconds",
}


class VllmNames(Collector):
    """Every metric of `registry` that is ours, as vLLM has it: with its prefix and the label ``engine``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            name = family.name.removeprefix(_OURS)
            if name == family.name:
                continue
            yield _renamed(family, name)
            if name in _EARLIER_NAMES:
                yield _renamed(family, _EARLIER_NAMES[name])


def _renamed(family: Metric, name: str) -> Metric:
    alias = Metric(f"vllm:{name}", family.documentation, family.type)
    for sample in family.samples:
        ending = sample.name.removeprefix(family.name)
        labels = {**sample.labels, "engine": "0"}
        alias.add_sample(alias.name + ending, labels, sample.value)
    return alias
