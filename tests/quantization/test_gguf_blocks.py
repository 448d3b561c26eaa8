"""Decoding GGUF blocks, against the `gguf` package."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from ozone.quantization.gguf import DECODERS


def _random_blocks(kind: str, rows: int, blocks_per_row: int) -> np.ndarray:
    """Random bytes, with every float16 (scales and offsets) replaced by an ordinary number."""
    decoder = DECODERS[kind]
    rng = np.random.default_rng(sum(kind.encode()))
    blocks = rng.integers(0, 256, (rows * blocks_per_row, decoder.block_bytes), dtype=np.uint8)
    halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
    for at in halves.get(kind, (0, 2) if kind.endswith("_1") else (0,)):
        numbers = rng.normal(size=(len(blocks), 1)).astype(np.float16)
        blocks[:, at : at + 2] = numbers.view(np.uint8)
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("kind", DECODERS)
def test_float32_results_equal_the_reference_bit_for_bit(kind: str) -> None:
    decoder = DECODERS[kind]
    blocks = _random_blocks(kind, 7, 65536 // decoder.block_elements // 3)
    expected = quants.dequantize(blocks, GGMLQuantizationType[kind])
    out = torch.empty(expected.size)
    decoder.decode(blocks.reshape(-1), out)
    np.testing.assert_array_equal(out.numpy(), expected.reshape(-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K"])
def test_narrow_results_are_the_float32_ones_rounded_once(kind: str, dtype: torch.dtype) -> None:
    decoder = DECODERS[kind]
    blocks = _random_blocks(kind, 3, 5)
    expected = torch.from_numpy(quants.dequantize(blocks, GGMLQuantizationType[kind])).reshape(-1).to(dtype)
    out = torch.empty(expected.shape, dtype=dtype)
    decoder.decode(blocks.reshape(-1), out)
    assert torch.equal(out, expected)


def test_mapped_read_only_bytes_can_be_decoded(recwarn: pytest.WarningsRecorder) -> None:
    blocks = _random_blocks("Q8_0", 1, 4).reshape(-1)
    blocks.flags.writeable = False
    DECODERS["Q8_0"].decode(blocks, torch.empty(128))
    assert not recwarn.list
