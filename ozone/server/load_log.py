"""One log line every ten seconds while the engine works, in vLLM's words; silence while it does not."""

from __future__ import annotations

import asyncio
import logging
import time

from ozone.engine.outputs import EngineStats
from ozone.server.interfaces import EngineClient

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0


async def log_load(engine: EngineClient) -> None:
    """Write the lines until cancelled."""
    before, since = engine.stats(), time.monotonic()
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        stats, now = engine.stats(), time.monotonic()
        line = load_line(before, stats, now - since)
        if line is not None:
            logger.info(line)
        before, since = stats, now


def load_line(before: EngineStats, now: EngineStats, seconds: float) -> str | None:
    """What happened between two looks at the engine; None where nothing did."""
    prompt = now.prompt_tokens - before.prompt_tokens
    generated = now.generation_tokens - before.generation_tokens
    if not (prompt or generated or now.num_running or now.num_waiting):
        return None
    queries = now.prefix_cache_queries - before.prefix_cache_queries
    hits = now.prefix_cache_hits - before.prefix_cache_hits
    rate = f"{hits / queries:.1%}" if queries else "-"
    return (
        f"Avg prompt throughput: {prompt / seconds:.1f} tokens/s, "
        f"Avg generation throughput: {generated / seconds:.1f} tokens/s, "
        f"Running: {now.num_running} reqs, Waiting: {now.num_waiting} reqs, "
        f"KV cache usage: {now.kv_cache_usage:.1%}, Prefix cache hit rate: {rate}"
    )
