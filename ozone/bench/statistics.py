"""Summaries of repeated measurements. Medians with their spread: timings have long tails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` (0 to 100) of `values` lie, interpolated between neighbours."""
    if not values:
        raise ValueError("no values to summarize")
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


@dataclass(frozen=True)
class Summary:
    """Median and spread of some values, in the values' own unit."""

    count: int
    mean: float
    median: float
    p10: float
    p90: float
    p99: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Summarize at least one value."""
        return cls(
            count=len(values),
            mean=sum(values) / max(len(values), 1),
            median=percentile(values, 50),
            p10=percentile(values, 10),
            p90=percentile(values, 90),
            p99=percentile(values, 99),
            minimum=min(values),
            maximum=max(values),
        )

    def as_json(self) -> dict[str, float]:
        """The summary under the names of the report."""
        return {
            "count": self.count,
            "mean": self.mean,
            "median": self.median,
            "p10": self.p10,
            "p90": self.p90,
            "p99": self.p99,
            "min": self.minimum,
            "max": self.maximum,
        }


def summary_json(values: Sequence[float]) -> dict[str, float] | None:
    """A summary as JSON; null where there was nothing to measure."""
    return Summary.of(values).as_json() if values else None
