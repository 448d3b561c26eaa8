"""What a call costs that computes next to nothing, and a launch that moves next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

import ozone.ops.norm  # noqa: F401 (registers rms_norm)
from ozone.bench.kernels.cases import Case, Work
from ozone.native import allocate, kernel
from ozone.ops.registry import OPS

# More than the runtime leaves to the caller alone (csrc/runtime/launch.h), and soon read.
_LAUNCH_BYTES = 64 << 10


def cases() -> Iterator[Case]:
    yield Case("overhead", "", "op call, rms_norm of 1 x 16", lambda: _call(OPS["rms_norm"].call))
    yield Case("overhead", "", "node call, rms_norm of 1 x 16", lambda: _call(OPS["rms_norm"].node))
    yield Case("overhead", "", f"launch on the team, read of {_LAUNCH_BYTES >> 10} KB", _launch)


def _call(op: Callable[..., object]) -> Work:
    x, weight = torch.randn(1, 16), torch.ones(16)
    return Work(
        [partial(op, x, weight, 1e-5)],
        peers={"ATen add": [partial(torch.add, weight, weight)]},
    )


def _launch() -> Work:
    data, out = allocate("bench", _LAUNCH_BYTES), np.zeros((1024, 8), np.int64)
    read = kernel("stream_read")
    return Work([lambda: read(out.ctypes.data, data.ctypes.data, _LAUNCH_BYTES)])
