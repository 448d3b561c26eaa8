"""What watches a server while it is attacked: `/health` every 10 ms, and the gaps of one slow stream.

A program, so that nothing else that a benchmark does makes it late: it watches until stdin ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from ozone.bench.http_client import HttpClient, TransferError

# Of `time.monotonic`, which all processes of a machine share.
Times = list[float]
_EVERY = 0.01
_MOST_SECONDS = 300.0


@dataclass
class Watched:
    """What was seen, in seconds of `time.monotonic`.

    Attributes:
        polls: of `/health`: when each was sent and when it was answered.
        streams: when the events of each stream arrived; one follows the other.
        faults: what should never be: polls that failed, streams that broke off; when, and why.
    """

    polls: list[tuple[float, float]] = field(default_factory=list)
    streams: list[Times] = field(default_factory=list)
    faults: list[tuple[float, str]] = field(default_factory=list)

    def longest_poll(self, begin: float, end: float) -> float:
        """Of all that overlap this time."""
        return max((later - sent for sent, later in self.polls if sent < end and later > begin), default=0.0)

    def longest_gap(self, begin: float, end: float) -> float:
        """Between two events of a stream, of all that overlap this time."""
        pairs = [pair for times in self.streams for pair in pairwise(times)]
        return max((b - a for a, b in pairs if a < end and b > begin), default=0.0)

    def faults_within(self, begin: float, end: float) -> list[str]:
        return [why for when, why in self.faults if begin <= when <= end]


async def _poll(client: HttpClient, watched: Watched) -> None:
    due = time.monotonic()
    while True:
        due = max(due + _EVERY, time.monotonic())
        await asyncio.sleep(due - time.monotonic())
        sent = time.monotonic()
        try:
            async with client.request("GET", "/health") as answer:
                await answer.read()
                if answer.status != 200:
                    watched.faults.append((time.monotonic(), f"/health answers {answer.reason}"))
        except TransferError as error:
            watched.faults.append((time.monotonic(), f"/health: {error}"))
        watched.polls.append((sent, time.monotonic()))


async def _stream(
    client: HttpClient, watched: Watched, body: dict[str, Any], begun: Callable[[], object]
) -> None:
    while True:
        times: Times = []
        watched.streams.append(times)
        ended = False
        try:
            async with client.request("POST", "/v1/completions", json.dumps(body).encode()) as answer:
                async for piece in answer.pieces():
                    times.append(time.monotonic())
                    ended = ended or b"data: [DONE]" in piece
                    if len(times) == 2:
                        begun()
            reason = "the stream broke off" if answer.status == 200 else answer.reason
        except TransferError as error:
            reason = str(error)
        if not ended:
            watched.faults.append((time.monotonic(), reason))
            await asyncio.sleep(0.1)


async def watch(base_url: str, body: dict[str, Any], begun: Callable[[], object]) -> Watched:
    """Watch until stdin ends; `begun` is called when a stream begins to flow."""
    watched = Watched()
    client = HttpClient(base_url, most_seconds=_MOST_SECONDS)
    loop = asyncio.get_running_loop()
    tasks = [
        loop.create_task(_poll(client, watched)),
        loop.create_task(_stream(HttpClient(base_url), watched, body, begun)),
    ]
    ending = loop.run_in_executor(None, sys.stdin.read)
    await asyncio.wait([*tasks, ending], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task  # where it has failed, its error is ours
    return watched


class Watcher:
    """A watch in a process of its own; use as a context manager. `stop` returns what was seen."""

    def __init__(self, base_url: str, model: str, tokens: int) -> None:
        """Begin to watch, with streams of `tokens` tokens; returns when the first one flows."""
        body = {
            "model": model,
            "prompt": "Once upon a time",
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ozone.bench.isolation_watch", base_url, json.dumps(body)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "watching\n":
            self.stop_by_force()
            raise RuntimeError("the watch of the server did not begin")

    def stop(self) -> Watched:
        said, _ = self._process.communicate(timeout=60)
        return Watched(**json.loads(said))

    def stop_by_force(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop_by_force()


def main(base_url: str, body: str) -> None:
    """The program: says ``watching`` when the stream flows, and at the end what was seen, as JSON."""
    said: list[None] = []

    def begun() -> None:
        if not said:
            print("watching", flush=True)
        said.append(None)

    print(json.dumps(asdict(asyncio.run(watch(base_url, json.loads(body), begun)))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
