"""Every format says the same with programs and graphs as at -O0, under random mixes of prefill, decode,
preemption and prefix hits: to the token in float32, and in quantized formats to the token of the same native
ops, and to that of -O0 itself wherever that is sure.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny_checkpoints as checkpoints
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_llama import save_tokenizer

from ozone import LLM, SamplingParams
from ozone.entrypoints.quantize import Request, quantize
from ozone.graphs.eager_runner import kv_block_bytes
from ozone.ops.registry import NATIVE
from ozone.quantization.recipes import RECIPES
from ozone.weights.model_files import open_model

pytestmark = pytest.mark.skipif(not NATIVE, reason="programs and graphs need the native library")

MOST_TOKENS = 30
NUM_BLOCKS = 14
CROWDED = {"max_num_batched_tokens": 24, "max_num_seqs": 5, "max_model_len": 128}
# (scheme, type of the KV cache)
FORMATS = (
    ("float32", "auto"),
    ("fp8-dynamic", "auto"),
    ("fp8-static", "fp8"),
    ("int8", "int8"),
    ("int4-g32", "auto"),
)
SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "O1": (1, {}),
    "O1, attention quantizes": (1, {"pass_config": {"fuse_attn_quant": True}}),
    "O2": (2, {"cudagraph_capture_sizes": [1, 2, 4]}),  # larger decode batches and mixed ones run otherwise
    "captured": (0, {"cudagraph_mode": "FULL", "custom_ops": ["all"]}),
}

Folder = Callable[[str], Path]


def prompts() -> list[dict[str, list[int]]]:
    """Of random lengths; some begin alike, by more than a block."""
    rng = random.Random(2)
    shared = [rng.randrange(3, 160) for _ in range(40)]
    return [
        {"prompt_token_ids": shared[:begin] + [rng.randrange(3, 160) for _ in range(end)]}
        for begin, end in ((0, 1), (0, 40), (17, 3), (33, 9), (33, 30), (40, 1), (40, 20), (16, 16))
    ]


PROMPTS = prompts()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A model of six layers as a scheme stores it."""
    known: dict[str, Path] = {}

    def get(scheme: str) -> Path:
        if scheme in known:
            return known[scheme]
        out = tmp_path_factory.mktemp(scheme) / "model"
        if scheme == "float32":
            out.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(checkpoints.SHAPE, "num_hidden_layers", 6)
                patch.setitem(checkpoints.SHAPE, "max_position_embeddings", 1024)
                patch.setitem(checkpoints.SHAPE, "vocab_size", 320)  # as many as the tokenizer has
                checkpoints.save(checkpoints.tiny_model("llama_tied"), out, "safetensors")
            save_tokenizer(out)
        else:
            quantize(Request(str(get("float32")), out, RECIPES[scheme], calibration_tokens=512))
        known[scheme] = out
        return out

    return get


def params(tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)


def eager(path: Path, cache: str, custom_ops: str) -> LLM:
    """The model at -O0. Plain ops sum in another order, so now and then one of them rounds otherwise."""
    return LLM(
        str(path),
        dtype="float32",
        kv_cache_dtype=cache,
        optimization_level=0,
        compilation_config={"custom_ops": [custom_ops]},
        max_model_len=128,
        enable_prefix_caching=False,
    )


@pytest.fixture(scope="module")
def alone(folder: Folder) -> Callable[[str, str], list[list[int]]]:
    """What a model answers to each prompt on its own."""
    known: dict[tuple[str, str], list[list[int]]] = {}

    def get(scheme: str, cache: str) -> list[list[int]]:
        if (scheme, cache) not in known:
            with eager(folder(scheme), cache, "none" if scheme == "float32" else "all") as llm:
                outputs = [llm.generate([p], params(MOST_TOKENS), use_tqdm=False)[0] for p in PROMPTS]
            known[scheme, cache] = [list(output.outputs[0].token_ids) for output in outputs]
        return known[scheme, cache]

    return get


# By how much the logarithms of the two likeliest tokens' probabilities have to differ for -O0 to be sure.
MARGIN = 0.1


@pytest.mark.parametrize(("scheme", "cache"), FORMATS[1:], ids=[scheme for scheme, _ in FORMATS[1:]])
def test_what_is_quantized_agrees_wherever_the_reference_is_sure(
    scheme: str, cache: str, folder: Folder
) -> None:
    with eager(folder(scheme), cache, "none") as llm:
        reports = SamplingParams(temperature=0, max_tokens=MOST_TOKENS, ignore_eos=True, logprobs=2)
        outputs = [output.outputs[0] for output in llm.generate(PROMPTS, reports, use_tqdm=False)]
    forced, chosen, sure = [], [], []
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        for place, row in enumerate(output.logprobs or []):
            begin = [*prompt["prompt_token_ids"], *output.token_ids[:place]]
            forced.append({"prompt_token_ids": begin})
            chosen.append(output.token_ids[place])
            first, second = sorted((one.logprob for one in row.values()), reverse=True)[:2]
            sure.append(first - second > MARGIN)
    assert sum(sure) > len(sure) / 2
    with LLM(
        str(folder(scheme)), dtype="float32", kv_cache_dtype=cache, optimization_level=2, max_model_len=128
    ) as llm:
        said = [output.outputs[0].token_ids[0] for output in llm.generate(forced, params(1), use_tqdm=False)]
    differ = [place for place in range(len(said)) if said[place] != chosen[place]]
    assert not [place for place in differ if sure[place]]
    assert len(differ) < len(said) / 20


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("scheme", "cache"), FORMATS, ids=[scheme for scheme, _ in FORMATS])
def test_answers_do_not_depend_on_the_schedule(
    scheme: str, cache: str, setting: str, folder: Folder, alone: Callable[[str, str], list[list[int]]]
) -> None:
    expected = alone(scheme, cache)
    level, compilation = SETTINGS[setting]
    stored = {"auto": "float32"}.get(cache, cache)
    block_bytes = kv_block_bytes(open_model(str(folder(scheme))).config, 16, stored)
    with LLM(
        str(folder(scheme)),
        dtype="float32",
        kv_cache_dtype=cache,
        optimization_level=level,
        compilation_config=compilation or None,
        kv_cache_memory_bytes=NUM_BLOCKS * block_bytes,
        **CROWDED,
    ) as llm:
        requests = st.tuples(st.integers(0, len(PROMPTS) - 1), st.integers(1, MOST_TOKENS))

        @settings(max_examples=15, database=None)
        @given(st.lists(requests, min_size=1, max_size=10))
        def says_the_same(wanted: list[tuple[int, int]]) -> None:
            outputs = llm.generate(
                [PROMPTS[place] for place, _ in wanted],
                [params(tokens) for _, tokens in wanted],
                use_tqdm=False,
            )
            for (place, tokens), output in zip(wanted, outputs, strict=True):
                assert list(output.outputs[0].token_ids) == expected[place][:tokens]

        says_the_same()


@pytest.mark.parametrize(("scheme", "cache"), FORMATS[1:4], ids=[scheme for scheme, _ in FORMATS[1:4]])
def test_attention_that_quantizes_says_the_same_behind_long_contexts(
    scheme: str, cache: str, folder: Folder
) -> None:
    """Some requests decode over one chunk of their context, some over several, some are prompts still."""
    rng = random.Random(3)
    prompts = [{"prompt_token_ids": [rng.randrange(3, 160) for _ in range(n)]} for n in (5, 240, 300, 530)]

    def answers(level: int, compilation: dict[str, Any]) -> list[list[int]]:
        with LLM(
            str(folder(scheme)),
            dtype="float32",
            kv_cache_dtype=cache,
            optimization_level=level,
            compilation_config=compilation,
            max_model_len=1024,
            max_num_batched_tokens=256,
        ) as llm:
            outputs = llm.generate(prompts, params(MOST_TOKENS), use_tqdm=False)
            return [list(output.outputs[0].token_ids) for output in outputs]

    fused = {"pass_config": {"fuse_attn_quant": True}}
    expected = answers(0, {"custom_ops": ["all"]})
    for level in (1, 2):  # pieces; whole steps
        assert answers(level, fused) == expected
    # Between ops that run as they are.
    few = {"custom_ops": ["none", "+quantize"]}
    assert answers(1, {**few, **fused, "backend": "eager"}) == answers(0, few)


# Ways to choose tokens: what a graph chooses, and what is reported of it, may not differ from -O0 either.
CHOICES: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.7, "seed": 4, "top_k": 20, "logprobs": 2},
    {"temperature": 1.2, "seed": 5, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3},
    {"temperature": 0, "presence_penalty": 0.5, "frequency_penalty": 0.2, "logit_bias": {7: 2.0, 9: -3.0}},
    {"temperature": 0, "prompt_logprobs": 1},
    {"temperature": 0.9, "seed": 6, "allowed_token_ids": list(range(20, 60)), "logprobs": 0},
]


def chosen_as(choice: dict[str, Any]) -> SamplingParams:
    return SamplingParams(max_tokens=12, ignore_eos=True, **choice)


class Said(NamedTuple):
    """Tokens; the tokens and ranks that are reported, of the prompt's too; their log-probabilities."""

    token_ids: list[int]
    reported: list[tuple[int, int | None]]
    logprobs: list[float]

    @classmethod
    def of(cls, output: Any) -> Said:
        (completion,) = output.outputs
        rows = [*(completion.logprobs or []), *(output.prompt_logprobs or [])]
        entries = [entry for row in rows for entry in (row or {}).items()]
        return cls(
            list(completion.token_ids),
            [(token, one.rank) for token, one in entries],
            [one.logprob for _, one in entries],
        )


@pytest.fixture(scope="module")
def chosen_alone(folder: Folder) -> list[list[Said]]:
    """What each prompt gets in each way, on its own, at -O0."""
    with LLM(str(folder("float32")), dtype="float32", optimization_level=0, max_model_len=128) as llm:
        return [
            [Said.of(llm.generate([prompt], chosen_as(way), use_tqdm=False)[0]) for way in CHOICES]
            for prompt in PROMPTS
        ]


@pytest.mark.parametrize("setting", SETTINGS)
def test_choices_and_reports_do_not_depend_on_the_schedule(
    setting: str, folder: Folder, chosen_alone: list[list[Said]]
) -> None:
    level, compilation = SETTINGS[setting]
    block_bytes = kv_block_bytes(open_model(str(folder("float32"))).config, 16, "float32")
    with LLM(
        str(folder("float32")),
        dtype="float32",
        optimization_level=level,
        compilation_config=compilation or None,
        kv_cache_memory_bytes=NUM_BLOCKS * block_bytes,
        **CROWDED,
    ) as llm:
        requests = st.tuples(st.integers(0, len(PROMPTS) - 1), st.integers(0, len(CHOICES) - 1))

        @settings(max_examples=15, database=None)
        @given(st.lists(requests, min_size=1, max_size=10))
        def says_the_same(wanted: list[tuple[int, int]]) -> None:
            outputs = llm.generate(
                [PROMPTS[place] for place, _ in wanted],
                [chosen_as(CHOICES[way]) for _, way in wanted],
                use_tqdm=False,
            )
            for (place, way), output in zip(wanted, outputs, strict=True):
                said, expected = Said.of(output), chosen_alone[place][way]
                assert said[:2] == expected[:2]
                # Sums over a prompt's chunks may differ in the last place.
                assert said.logprobs == pytest.approx(expected.logprobs, abs=1e-4)

        says_the_same()
