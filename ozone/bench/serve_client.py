"""Load on an OpenAI-compatible server: streaming requests, with the times at which their chunks arrived."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from ozone.bench.http_client import Answer, HttpClient, TransferError
from ozone.bench.workload import Prompt, random_token_ids
from ozone.errors import OzoneError, clipped

# Common words, a token each in most vocabularies: what random prompts are made of.
_WORDS = (
    " time year people way day man thing woman life child world school state family student group"
    " country problem hand part place case week company system program question work number night point"
    " home water room mother area money story fact month lot right study book eye job word business"
    " issue side kind head house service friend father power hour game line end member law car city name"
    " team minute idea body back face level office door health person art war history party result"
    " change morning reason girl moment air"
)


@dataclass(slots=True)
class Outcome:
    """One request as its client saw it, in seconds of `time.perf_counter`.

    Attributes:
        sent: when the request went out.
        chunks: when each chunk with text arrived.
        finished: when the stream ended, or when the request failed.
        prompt_tokens, output_tokens: from the server's usage, where it sends one at the end.
        error: why it failed, or None.
    """

    sent: float
    chunks: list[float] = field(default_factory=list)
    finished: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None

    @property
    def time_to_first_token(self) -> float:
        return (self.chunks[0] if self.chunks else self.finished) - self.sent

    @property
    def latency(self) -> float:
        return self.finished - self.sent

    @property
    def time_per_output_token(self) -> float | None:
        """Mean time of a token after the first; None for a single token."""
        if self.output_tokens < 2 or not self.chunks:
            return None
        return (self.chunks[-1] - self.chunks[0]) / (self.output_tokens - 1)

    @property
    def inter_token_latencies(self) -> list[float]:
        """Times between chunks. A chunk is one token, but where a server sends several at once."""
        return [later - earlier for earlier, later in zip(self.chunks, self.chunks[1:], strict=False)]


@dataclass(frozen=True)
class Target:
    """Where requests go: ``base_url + endpoint``, the `model` they name, the length of each answer."""

    base_url: str
    endpoint: str
    model: str
    output_len: int
    api_key: str | None = None

    @property
    def chat(self) -> bool:
        return self.endpoint.rstrip("/").endswith("chat/completions")

    def body(self, prompt: Prompt) -> dict[str, Any]:
        """The JSON of a streaming request."""
        asked: dict[str, Any] = {"prompt": prompt}
        if self.chat:
            asked = {"messages": [{"role": "user", "content": prompt}]}
        return asked | {
            "model": self.model,
            "max_tokens": self.output_len,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


def open_client(base_url: str, api_key: str | None) -> HttpClient:
    """A client without a bound on connections. `OzoneError` where the URL is none."""
    try:
        return HttpClient(base_url, api_key)
    except ValueError as error:
        raise OzoneError(f"--base-url {base_url}: {error}") from error


async def served_model(client: HttpClient) -> str:
    """The first model that the server names. `OzoneError` where no server answers, or not as it should."""
    try:
        async with client.request("GET", "/v1/models") as answer:
            content = await answer.read()
    except TransferError as error:
        raise OzoneError(
            f"no server answers at {client.base_url} ({error}); start one with `ozone serve`, or leave out "
            "--base-url, --host and --port to have one started"
        ) from error
    if answer.status != 200:
        raise OzoneError(f"{client.base_url}: /v1/models answers {_refusal(answer, content)}")
    try:
        name: str = orjson.loads(content)["data"][0]["id"]
    except (ValueError, LookupError, TypeError) as error:
        raise OzoneError(f"{client.base_url}: /v1/models does not answer as OpenAI's does") from error
    return name


async def random_prompts(
    client: HttpClient, target: Target, number: int, length: int, seed: int
) -> list[Prompt]:
    """Random prompts of `length` tokens each, with ids that the server's own tokenizer made of common words.

    A chat takes text, and some servers have no ``/tokenize``: there a prompt is `length` common words.
    """
    if not target.chat:
        asked = {"model": target.model, "prompt": _WORDS, "add_special_tokens": False}
        async with client.request("POST", "/tokenize", orjson.dumps(asked)) as answer:
            content = await answer.read()
        vocabulary = _token_ids(content) if answer.status == 200 else []
        if vocabulary:
            return list(random_token_ids(number, length, vocabulary, seed))
    generator, words = random.Random(seed), _WORDS.split()
    return [" ".join(generator.choices(words, k=length)) for _ in range(number)]


def _token_ids(content: bytes) -> list[int]:
    try:
        found = orjson.loads(content)
    except ValueError:
        return []
    tokens = found.get("tokens") if isinstance(found, dict) else None
    if isinstance(tokens, list) and all(type(token) is int for token in tokens):
        return tokens
    return []


async def send(client: HttpClient, target: Target, prompt: Prompt) -> Outcome:
    """Send one request and read its stream to the end; a failure is in the outcome, never raised."""
    body = orjson.dumps(target.body(prompt))
    outcome = Outcome(time.perf_counter())
    try:
        async with client.request("POST", target.endpoint, body) as answer:
            if answer.status != 200:
                outcome.error = _refusal(answer, await answer.read())
            else:
                await _read_stream(answer, outcome)
    except TransferError as error:
        outcome.error = str(error)
    outcome.finished = time.perf_counter()
    return outcome


async def _read_stream(answer: Answer, outcome: Outcome) -> None:
    ended, rest = False, b""
    async for piece in answer.pieces():
        now = time.perf_counter()
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                ended = True
            elif (wrong := _take_event(data, now, outcome)) is not None:
                outcome.error = wrong
                return
    # A server that sends no usage sends a token a chunk.
    outcome.output_tokens = outcome.output_tokens or len(outcome.chunks)
    if not ended:
        outcome.error = "the stream broke off"


def _take_event(data: bytes, now: float, outcome: Outcome) -> str | None:
    """Put an event into the outcome; returns what is wrong with it."""
    try:
        event = orjson.loads(data)
    except ValueError:
        return "the stream holds what is not JSON"
    if "error" in event:
        return _message(event)
    if any(_text(choice) for choice in event.get("choices") or ()):
        outcome.chunks.append(now)
    usage = event.get("usage")
    if usage:
        outcome.prompt_tokens = usage["prompt_tokens"]
        outcome.output_tokens = usage["completion_tokens"]
    return None


def _text(choice: dict[str, Any]) -> str | None:
    text: str | None = choice.get("text") or (choice.get("delta") or {}).get("content")
    return text


def _message(event: dict[str, Any]) -> str:
    error = event["error"]
    return clipped(str(error.get("message", error) if isinstance(error, dict) else error))


def _refusal(answer: Answer, content: bytes) -> str:
    try:
        return f"{answer.status}: {_message(orjson.loads(content))}"
    except (ValueError, LookupError, TypeError):
        return answer.reason


async def run_load(
    client: HttpClient,
    target: Target,
    prompts: Sequence[Prompt],
    *,
    request_rate: float,
    max_concurrency: int | None,
    seed: int,
    finished: Callable[[], object] = lambda: None,
) -> list[Outcome]:
    """Send all prompts and wait for their ends.

    Args:
        request_rate: arrivals a second, at random as a Poisson process; infinity sends all at once.
        max_concurrency: requests on their way at a time; an arrival beyond it waits unsent.
        finished: called after each.
    """
    generator = random.Random(seed)
    slots = asyncio.Semaphore(max_concurrency or len(prompts))

    async def one(prompt: Prompt) -> Outcome:
        async with slots:
            outcome = await send(client, target, prompt)
        finished()
        return outcome

    # Arrivals are kept against the clock, so that a late wake-up does not lower the rate.
    due = time.perf_counter()
    tasks = []
    for prompt in prompts:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(prompt)))
        due += generator.expovariate(request_rate) if request_rate != float("inf") else 0.0
    return list(await asyncio.gather(*tasks))
