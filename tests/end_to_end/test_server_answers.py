"""The served default model answers a real client, also when many come at once and some leave."""

from __future__ import annotations

import asyncio
import os
import random
import time

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import Expected, ServerProcess, serve

MAX_MODEL_LEN = 512


def client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_the_openai_client_streams_paris() -> None:
    with serve("-O0") as server:
        api = client(server)
        name = api.models.list().data[0].id
        assert name == "smollm2"
        chunks = api.completions.create(
            model=name, prompt="The capital of France is", temperature=0, max_tokens=8, stream=True
        )
        texts = [chunk.choices[0].text for chunk in chunks if chunk.choices]
        assert "Paris" in "".join(texts)
        assert len(texts) > 1, "the answer came in one piece"
        assert_bytes_are_the_text(api)
        assert_no_alternative_is_lost(api)
        startup = httpx.get(f"{server.url}/startup").json()
        assert {"weights", "tokenizer", "import torch"} <= {phase["name"] for phase in startup["phases"]}
        server.process.terminate()
        assert server.process.wait(timeout=30) == 0


def assert_bytes_are_the_text(api: openai.OpenAI) -> None:
    """Also of emoji, which this tokenizer splits over tokens."""
    question = "Repeat exactly: \U0001f600 \U0001f603 \u65e5\u672c"
    (choice,) = api.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=16,
        logprobs=True,
    ).choices
    entries = choice.logprobs.content
    assert "\ufffd" in [entry.token for entry in entries], "no character was split"
    assert (
        b"".join(bytes(entry.bytes) for entry in entries).decode("utf-8", "replace") == choice.message.content
    )


def assert_no_alternative_is_lost(api: openai.OpenAI) -> None:
    (choice,) = api.completions.create(
        model="smollm2",
        prompt="\U0001f600 \U0001f603 \U0001f604",
        max_tokens=4,
        temperature=0,
        logprobs=5,
        echo=True,
    ).choices
    assert all(len(top) in (5, 6) for top in choice.logprobs.top_logprobs[1:])
    assert choice.logprobs.tokens[0] == r"bytes:\xf0\x9f"
    assert choice.logprobs.text_offset == sorted(choice.logprobs.text_offset)
    assert choice.logprobs.text_offset[-1] < len(choice.text)


async def stream_one(
    api: openai.AsyncOpenAI, case: Expected, max_tokens: int, leave_after: int | None
) -> list[int] | None:
    """Token ids of a streamed completion, or None where the client left in the middle."""
    stream = await api.completions.create(
        model="smollm2",
        prompt=case.prompt_token_ids,
        temperature=0,
        max_tokens=max_tokens,
        stream=True,
        extra_body={"ignore_eos": True, "return_token_ids": True},
    )
    tokens: list[int] = []
    async for chunk in stream:
        for choice in chunk.choices:
            tokens.extend(getattr(choice, "token_ids", None) or [])
        if leave_after is not None and len(tokens) >= leave_after:
            await stream.close()
            return None
    return tokens


async def crowd(
    server: ServerProcess, cases: list[Expected], clients: int, max_tokens: int, rng: random.Random
) -> int:
    """Stream to many clients at once, a third of which leave; returns how many left.

    Those ask for all of the context, so that only an abort can end their requests in time.
    """
    limits = httpx.Limits(max_connections=clients)
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        max_retries=0,
        timeout=300,
        http_client=httpx.AsyncClient(limits=limits, timeout=300),
    ) as api:
        chosen = [rng.choice(cases) for _ in range(clients)]
        leaving = [rng.randrange(1, max_tokens) if rng.random() < 1 / 3 else None for _ in range(clients)]
        answers = await asyncio.gather(
            *(
                stream_one(api, case, max_tokens if leave is None else room_for(case), leave)
                for case, leave in zip(chosen, leaving, strict=True)
            )
        )
    for case, leave, answer in zip(chosen, leaving, answers, strict=True):
        if leave is None:
            assert answer == case.token_ids[:max_tokens], case.prompt
    return clients - leaving.count(None)


def room_for(case: Expected) -> int:
    return MAX_MODEL_LEN - len(case.prompt_token_ids)


def scrape(server: ServerProcess) -> dict[str, float]:
    """What /metrics says, by name; `request_success_total` by name and reason."""
    families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
    return {
        sample.name.removeprefix("ozone:") + sample.labels.get("finished_reason", ""): sample.value
        for family in families
        for sample in family.samples
    }


IDLE = {"num_requests_running": 0, "num_requests_waiting": 0, "kv_cache_usage_perc": 0}


def wait_until_idle(server: ServerProcess, seconds: float = 10) -> dict[str, float]:
    """Wait until the server holds nothing for anybody, and return its metrics."""
    deadline = time.monotonic() + seconds
    while not (metrics := scrape(server)).items() >= IDLE.items():
        found = {name: metrics[name] for name in IDLE}
        assert time.monotonic() < deadline, f"after every client has left: {found}"
        time.sleep(0.1)
    return metrics


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.slow, id="soak")])
@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_two_hundred_clients_of_which_a_third_disconnect(
    expected: list[Expected], rounds: int, level: str
) -> None:
    rng = random.Random(int(os.environ.get("OZONE_TEST_SEED", "0")))
    max_tokens = 12
    with serve(level, "--dtype", "float32", "--max-model-len", str(MAX_MODEL_LEN)) as server:
        # Every buffer is in use once: by a step of prompts alone, since chunks beside streams adapt, and by
        # as many requests as run at a time.
        prompts = [[5] * (MAX_MODEL_LEN - 1)] * 2
        client(server).completions.create(model="smollm2", prompt=prompts, max_tokens=1)
        asyncio.run(crowd(server, expected, 200, max_tokens, rng))
        metrics = wait_until_idle(server)
        before = server.resident_bytes()
        for _ in range(rounds):
            aborted = metrics["request_success_totalabort"]
            left = asyncio.run(crowd(server, expected, 200, max_tokens, rng))
            metrics = wait_until_idle(server)
            assert metrics["request_success_totalabort"] == aborted + left > aborted
        grown = server.resident_bytes() - before
        assert grown < 32 << 20, f"resident memory grew by {grown >> 20} MB in {rounds} rounds"
