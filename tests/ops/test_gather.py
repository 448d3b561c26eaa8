"""The gather of columns against indexing, over shapes, types and instruction sets."""

from __future__ import annotations

import pytest
import torch

from ozone.native import library
from ozone.ops.gather import gather_columns
from ozone.ops.registry import OPS

pytestmark = pytest.mark.pairwise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 8), (0, 16), (1, 4097), (7, 100), (33, 320)])
def test_columns_come_in_the_given_order(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(sum(shape))
    wide = torch.randn(shape[0], shape[1] + 3).to(dtype)
    order = torch.randperm(shape[1]).to(torch.int32)
    native = library()
    for isa in [None] if native is None else native.isas():
        if native is not None:
            before = native.isa()
            native.set_isa(isa)
        try:
            for x in (wide[:, : shape[1]], wide[:, : shape[1]].contiguous()):
                found = gather_columns(x, order)
                assert torch.equal(found, x[:, order.long()]) and found.is_contiguous()
                assert torch.equal(OPS["gather_columns"].reference(x, order), found)
        finally:
            if native is not None:
                native.set_isa(before)
