"""Why figures of `ozone bench graph` are not to be believed: what cannot be, and who else used the cores."""

from __future__ import annotations

from collections.abc import Iterable

from ozone.bench.limits import last_level_cache_bytes

# What other processes may take of the cores; a team of threads waits for the one whose core is taken.
MOST_OTHERS = 0.05
# Limits and launches are measured in turns, and memory moves in between.
MOST_SHARE = 1.25
# A replay leaves out barriers that its launches are timed with, which is worth a percent or two.
LEAST_BETWEEN = -0.05


def doubts(
    *, others: float | None, between: float, shares: Iterable[float | None], step_bytes: int
) -> list[str]:
    """The reasons, none for a quiet machine.

    Args:
        others: what other processes took of the cores, 0 to 1.
        between: the part of a step that lies between its launches.
        shares: of the machine's limit, by launch.
        step_bytes: what a step reads of weights and KV cache. What fits in the last-level cache reads
            faster than memory gives.
    """
    found = []
    if others is not None and others > MOST_OTHERS:
        found.append(f"other processes took {others:.0%} of the cores")
    highest = max((share for share in shares if share is not None), default=0.0)
    if highest > MOST_SHARE and step_bytes > 2 * (last_level_cache_bytes() or 0):
        found.append(f"a launch reaches {highest:.0%} of the limit")
    if between < LEAST_BETWEEN:
        found.append(f"the launches alone take longer than the step: {between:.1%} lies between them")
    return found
