"""A server under random load for as long as one likes neither grows nor answers otherwise than -O0.

`make soak` does so for an hour. Requests begin alike or not, stream or do not, are sampled or greedy, ask for
several answers or logprobs, and some of their clients leave; the KV cache is too small for all of them, so
that some are preempted and cached prefixes are thrown out.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import httpx
import openai
import pytest

from .conftest import PROMPTS, ServerProcess, serve
from .test_server_answers import scrape, wait_until_idle

SECONDS = float(os.environ.get("OZONE_TEST_SOAK_SECONDS", "15"))
CLIENTS = 24
MAX_MODEL_LEN = 512
LONGEST_ANSWER = 40
LONGEST_STAY = 200  # tokens that who leaves has seen by then
GROWTH = 32 << 20
# An answer is compared up to the first token that the reference prefers to the second by less (of a
# logarithm), so that sums in another order may not decide it.
SURE = 1e-3


@dataclass(frozen=True)
class Known:
    """A prompt, and what -O0 answers as far as it is sure."""

    prompt: list[int]
    answer: list[int]


@pytest.fixture(scope="module")
def known() -> list[Known]:
    from ozone import LLM, SamplingParams

    rng = random.Random(3)
    params = SamplingParams(temperature=0, max_tokens=LONGEST_ANSWER, ignore_eos=True, logprobs=2)
    with LLM(optimization_level=0, dtype="float32", max_model_len=MAX_MODEL_LEN) as llm:
        texts = [llm.get_tokenizer().encode(text) for text in PROMPTS]
        stories = [list(itertools.chain(*rng.sample(texts, len(texts)))) for _ in range(3)]
        prompts = [rng.choice(stories)[: rng.randrange(1, 180)] + rng.choice(texts) for _ in range(40)]
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    found = []
    for ids, output in zip(prompts, outputs, strict=True):
        answer = []
        for token, row in zip(output.outputs[0].token_ids, output.outputs[0].logprobs or [], strict=True):
            first, second = sorted((one.logprob for one in row.values()), reverse=True)[:2]
            if first - second < SURE:
                break
            answer.append(token)
        found.append(Known(ids, answer))
    assert sum(len(one.answer) for one in found) > len(found) * LONGEST_ANSWER / 2
    return found


class Load:
    """Clients that ask one thing after another until a time of `time.monotonic`."""

    def __init__(self, server: ServerProcess, known: list[Known], rng: random.Random) -> None:
        self.server, self.known, self.rng = server, known, rng
        self.done: Counter[str] = Counter()

    async def run(self, until: float) -> None:
        await self.with_api(lambda: (self.client(until) for _ in range(CLIENTS)))

    async def crowd(self) -> None:
        """More long answers at once than there is room for."""
        await self.with_api(lambda: (self.stays(case, LONGEST_STAY) for case in self.known[:CLIENTS]))

    async def with_api(self, tasks: Callable[[], Iterable[Awaitable[None]]]) -> None:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with openai.AsyncOpenAI(
            base_url=f"{self.server.url}/v1",
            api_key="none",
            max_retries=0,
            http_client=httpx.AsyncClient(limits=limits, timeout=300),
        ) as api:
            self.api = api
            await asyncio.gather(*tasks())

    async def client(self, until: float) -> None:
        kinds = (self.greedy, self.greedy, self.whole, self.sampled, self.leaves)
        while time.monotonic() < until:
            await self.rng.choice(kinds)(self.rng.choice(self.known))
            if self.rng.random() < 0.1:
                await asyncio.sleep(self.rng.random())

    def request(self, case: Known, **more: object) -> dict[str, object]:
        extra = {"ignore_eos": True, "return_token_ids": True}
        return {
            "model": "smollm2",
            "prompt": case.prompt,
            "temperature": 0,
            "max_tokens": self.rng.randrange(1, LONGEST_ANSWER + 1),
            "extra_body": extra,
        } | more

    def check(self, case: Known, tokens: list[int], asked: object, kind: str) -> None:
        assert len(tokens) == asked
        assert tokens[: len(case.answer)] == case.answer[: len(tokens)], (kind, case)
        self.done[kind] += 1

    async def greedy(self, case: Known) -> None:
        request = self.request(case)
        tokens: list[int] = []
        async for chunk in await self.api.completions.create(stream=True, **request):
            for choice in chunk.choices:
                tokens.extend(choice.token_ids)
        self.check(case, tokens, request["max_tokens"], "streamed")

    async def whole(self, case: Known) -> None:
        request = self.request(case)
        if self.rng.random() < 0.3:
            request["logprobs"] = 3
        answer = await self.api.completions.create(**request)
        self.check(case, answer.choices[0].token_ids, request["max_tokens"], "whole")

    async def sampled(self, case: Known) -> None:
        rng = self.rng
        request = self.request(case, temperature=1.0, n=rng.choice([1, 1, 3]), top_p=rng.choice([1.0, 0.9]))
        request["extra_body"] |= {"top_k": rng.choice([0, 20]), "repetition_penalty": rng.choice([1.0, 1.2])}
        answer = await self.api.completions.create(**request)
        assert [len(choice.token_ids) for choice in answer.choices] == [request["max_tokens"]] * request["n"]
        self.done["sampled"] += 1

    async def leaves(self, case: Known) -> None:
        await self.stays(case, self.rng.randrange(1, LONGEST_STAY))

    async def stays(self, case: Known, left: int) -> None:
        """Asks for all of the context, so that only an abort can end the request in time."""
        stream = await self.api.completions.create(
            stream=True, **self.request(case, max_tokens=MAX_MODEL_LEN - len(case.prompt))
        )
        async for _ in stream:
            left -= 1
            if left == 0:
                break
        await stream.close()
        self.done["left"] += 1


@pytest.mark.timeout(2 * SECONDS + 300)
@pytest.mark.parametrize("level", ["-O2"])
def test_a_server_under_random_load_neither_grows_nor_answers_otherwise(
    known: list[Known], level: str
) -> None:
    arguments = ("--dtype", "float32", "--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", str(CLIENTS))
    with serve(level, *arguments, "--kv-cache-memory-bytes", "32MiB") as server:
        load = Load(server, known, random.Random(int(os.environ.get("OZONE_TEST_SEED", "0"))))
        parts = max(4, round(SECONDS / 60))
        asyncio.run(load.crowd())
        sizes = []
        begin = time.monotonic()
        for part in range(parts):
            asyncio.run(load.run(begin + (part + 1) * SECONDS / parts))
            metrics = wait_until_idle(server, seconds=60)
            sizes.append(server.resident_bytes())
            seconds, megabytes = time.monotonic() - begin, sizes[-1] >> 20
            preempted = metrics["num_preemptions_total"]
            print(
                f"{seconds:5.0f} s: {megabytes} MB, {dict(load.done)}, {preempted:.0f} preempted", flush=True
            )
        assert metrics["num_preemptions_total"] > 0
        assert scrape(server)["prefix_cache_hits_total"] > 0
        # What the first quarter needs is there to stay.
        grown = max(sizes[parts // 4 :]) - max(sizes[: parts // 4])
        assert grown < GROWTH, [size >> 20 for size in sizes]
