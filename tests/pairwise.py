"""Fewer cases of a test with many parameters: each two values of two parameters still meet in one.

A fault of a kernel shows for a shape, or for a shape with a type, rarely only for one triple. So
`@pytest.mark.pairwise` runs a covering subset of a product, and `--all-combinations` the product.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence

Case = Mapping[str, object]  # the value of each parameter; a value is the same object in every case


def covering(cases: Sequence[Case]) -> list[int]:
    """Which of `cases` to run, so that every pair of values in any of them is in one that runs.

    Greedy: always the case with most pairs not yet seen; of equals the first, so the choice is stable.
    """
    values = [[(name, id(value)) for name, value in case.items()] for case in cases]
    pairs = [set(itertools.combinations(of_case, 2)) for of_case in values]
    seen: set[object] = set()
    queue = [(-len(of_case), index) for index, of_case in enumerate(pairs)]
    heapq.heapify(queue)
    chosen = []
    while queue:
        bound, index = heapq.heappop(queue)
        new = len(pairs[index] - seen)
        if not new and bound:
            continue
        if queue and (-new, index) > queue[0]:  # others may bring more by now
            heapq.heappush(queue, (-new, index))
            continue
        seen |= pairs[index]
        chosen.append(index)
    return sorted(chosen)
