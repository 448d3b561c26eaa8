"""Numbers have bounds: one that is too long, too large or too small is an error of one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ozone.config.args import EngineArgs
from ozone.config.schema import OzoneConfig
from ozone.errors import ConfigError

Parse = Callable[..., EngineArgs]
Resolved = Callable[..., OzoneConfig]

NINES = "9" * 5000


@pytest.mark.parametrize(
    "word",
    [
        f"--seed={NINES}",
        f"--seed=-{NINES}",
        f"--kv-cache-memory-bytes={NINES}",
        f"--kv-cache-memory-bytes={NINES[:400]}.5",
        f"--kv-cache-memory-bytes={NINES[:400]}.5G",
        "--kv-cache-memory-bytes=9999999999G",
        f"--max-model-len={NINES}k",
        f"--block-size={NINES}",
        f"--dtype={NINES}",
        f"--enable-prefix-caching={NINES}",
        f"-O{NINES}",
        f"-cc.mode={NINES}",
        f"-cc.compile_sizes={NINES}",
        f"-cc.compile_sizes=[{NINES}]",
        f"-cc.pass_config.fi_allreduce_fusion_max_size_mb={NINES}",
    ],
    ids=lambda word: word[:40],
)
def test_a_number_of_thousands_of_digits_is_one_short_line(
    parse: Parse, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    with pytest.raises((SystemExit, ConfigError)) as stopped:
        parse(word)
    message = capsys.readouterr().err or f"{stopped.value}\n"
    assert message.count("\n") == 1
    assert 10 < len(message) < 500


@pytest.mark.parametrize(
    "kwargs",
    [
        {"seed": 10**5000},
        {"block_size": 10**5000},
        {"kv_cache_memory_bytes": 10**5000},
        {"enable_prefix_caching": 10**5000},
        {"dtype": 10**5000},
        {"compilation_config": {"mode": 10**5000}},
        {"compilation_config": {"cudagraph_capture_sizes": [10**5000]}},
        {"compilation_config": {"pass_config": {"fi_allreduce_fusion_max_size_mb": 10**5000}}},
    ],
)
def test_a_number_of_thousands_of_digits_in_python(kwargs: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="a number of 16610 bits"):
        EngineArgs.from_kwargs(**kwargs)


@pytest.mark.parametrize(
    ("flag", "most"),
    [
        ("--max-num-batched-tokens", 1_048_576),
        ("--max-num-seqs", 4096),
        ("--seed", 2**63 - 1),
        ("-cc.compile_sizes", 1_048_576),
        ("-cc.compile_ranges_endpoints", 1_048_576),
        ("-cc.cudagraph_capture_sizes", 1_048_576),
        ("-cc.max_cudagraph_capture_size", 1_048_576),
    ],
)
def test_the_largest_value_is_accepted_and_the_next_one_named_in_the_error(
    resolved: Resolved, capsys: pytest.CaptureFixture[str], flag: str, most: int
) -> None:
    assert resolved(f"{flag}={most}")
    with pytest.raises((SystemExit, ConfigError)) as stopped:
        resolved(f"{flag}={most + 1}")
    message = capsys.readouterr().err or str(stopped.value)
    assert f"{flag}: {most + 1} is not allowed; it must be at most {most}" in message


def test_fractions_of_a_unit_are_exact_enough(resolved: Resolved) -> None:
    assert resolved("--kv-cache-memory-bytes=1.5GiB").cache.kv_cache_memory_bytes == 3 * 2**29
    assert resolved("--kv-cache-memory-bytes=0000000000000000000000001G").cache.kv_cache_memory_bytes == 2**30


def test_a_prompt_in_one_step_has_the_same_bound(resolved: Resolved) -> None:
    with pytest.raises(ConfigError, match="--no-enable-chunked-prefill: a prompt of 2000000 tokens"):
        resolved("--no-enable-chunked-prefill", "--max-model-len=2000000")


def test_default_capture_sizes_end_at_512(resolved: Resolved) -> None:
    compilation = resolved("--max-num-seqs=4096").compilation
    assert compilation.max_cudagraph_capture_size == 512
    assert compilation.cudagraph_capture_sizes[-3:] == (480, 496, 512)
    assert compilation.cudagraph_capture_sizes[33:36] == (248, 256, 272)
