"""What all workers share: requests in as lines of JSON, answers out. Needs only Python's own library."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator


def serve(version: str, generate: Callable[[list[int], int], Iterator[object]]) -> None:
    """Answer until stdin ends. `generate` yields something for every token as soon as it is there."""
    print(json.dumps({"version": version}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        begin = time.perf_counter()
        first, count = 0.0, 0
        for _ in generate(asked["token_ids"], asked["output_tokens"]):
            count += 1
            if count == 1:
                first = time.perf_counter() - begin
        print(json.dumps({"first": first, "total": time.perf_counter() - begin, "tokens": count}), flush=True)
