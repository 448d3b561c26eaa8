"""Load that takes connections rather than work: many requests at once, and many that send nothing.

Run by hand against a server on this machine: ``connection_load.py PORT REQUESTS IDLE``.
"""

from __future__ import annotations

import asyncio
import collections
import multiprocessing
import sys
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event

_BODY = b'{"prompt":"x","max_tokens":4}'
_REQUEST = (
    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(_BODY)
) + _BODY
_HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
_PATIENCE_SECONDS = 20.0


async def status(port: int, request: bytes = _REQUEST) -> str:
    """The status of one request's answer, or what went wrong."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                answer = await reader.read()
            finally:
                writer.close()
    except OSError as error:
        return type(error).__name__
    return answer[9:12].decode() or "nothing"


def _watch(port: int, done: Event, longest: Queue[float]) -> None:
    """In a process of its own, which nothing but the server can hold up."""
    worst = 0.0
    while not done.is_set():
        begin = time.monotonic()
        asyncio.run(status(port, _HEALTH))
        worst = max(worst, time.monotonic() - begin)
        time.sleep(0.02)
    longest.put(worst)


def requests_at_once(port: int, count: int) -> tuple[collections.Counter[str], float]:
    """Statuses of `count` requests sent together, and the longest that /health took meanwhile, in seconds."""

    async def send() -> list[str]:
        return await asyncio.gather(*[status(port) for _ in range(count)])

    processes = multiprocessing.get_context("fork")
    done, longest = processes.Event(), processes.Queue()
    watcher = processes.Process(target=_watch, args=(port, done, longest))
    watcher.start()
    time.sleep(0.1)
    try:
        statuses = collections.Counter(asyncio.run(send()))
    finally:
        done.set()
        worst = longest.get(timeout=2 * _PATIENCE_SECONDS)
        watcher.join()
    return statuses, worst


async def requests_beside_idle(port: int, idle: int, count: int) -> collections.Counter[str]:
    """Statuses of `count` requests while `idle` connections send nothing, half of them after a few bytes."""
    writers = []
    for number in range(idle):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        if number % 2:
            writer.write(_REQUEST[:20])
        writers.append(writer)
    await asyncio.sleep(1)
    try:
        return collections.Counter(await asyncio.gather(*[status(port) for _ in range(count)]))
    finally:
        for writer in writers:
            writer.close()


def main() -> None:
    port, count, idle = map(int, sys.argv[1:])
    statuses, health = requests_at_once(port, count)
    print(f"{count} requests at once: {dict(statuses)}; /health at most {health:.3f} s")
    statuses = asyncio.run(requests_beside_idle(port, idle, 20))
    print(f"20 requests beside {idle} idle connections: {dict(statuses)}")


if __name__ == "__main__":
    main()
