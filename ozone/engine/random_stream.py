"""The one random stream of every sampler: a pure function of (seed, position), exact on every machine.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), with

    key     = (seed mod 2^32, seed div 2^32)               seed: 64 bits
    counter = (index mod 2^32, index div 2^32, stream, 0)
    word    = x0 + 2^32 * x1                               x0, x1: first two words of the output

Streams: 0, indexed by token position, gives the number that chooses the token at that position of the
sequence (prompt included): u = (word >> 11) * 2^-53, in [0, 1). 1 gives the seed of completion `index`
of a request (completion 0 keeps the request's own). 2 gives the seeds of requests that bring none, from
the engine's seed by order of arrival.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TOKEN_STREAM = 0
COMPLETION_STREAM = 1
REQUEST_STREAM = 2

_MASK = 0xFFFFFFFF
_SHIFT = np.uint64(32)
_LOW = np.uint64(_MASK)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_WINDOW = 64


def random_words(seed: int, indices: NDArray[np.uint64], stream: int) -> NDArray[np.uint64]:
    """64 random bits for each index, shape as `indices`."""
    x0, x1 = indices & _LOW, indices >> _SHIFT
    x2, x3 = np.full_like(indices, stream), np.zeros_like(indices)
    key0, key1 = seed & _MASK, seed >> 32 & _MASK
    for _ in range(_ROUNDS):
        product0, product1 = _MULTIPLIERS[0] * x0, _MULTIPLIERS[1] * x2
        x0, x2 = (
            (product1 >> _SHIFT) ^ x1 ^ np.uint64(key0),
            (product0 >> _SHIFT) ^ x3 ^ np.uint64(key1),
        )
        x1, x3 = product1 & _LOW, product0 & _LOW
        key0, key1 = (key0 + _WEYL[0]) & _MASK, (key1 + _WEYL[1]) & _MASK
    return x0 | (x1 << _SHIFT)


def derive_seed(seed: int, index: int, stream: int) -> int:
    """Seed number `index` of a stream other than the tokens'."""
    return int(random_words(seed, np.array([index], dtype=np.uint64), stream)[0])


class TokenUniforms:
    """The uniform numbers of one sequence, computed a window of positions at a time."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._first = -1
        self._window: list[float] = []

    def at(self, position: int) -> float:
        """The number in [0, 1) that chooses the token at `position`."""
        offset = position % _WINDOW
        if position - offset != self._first:
            self._first = position - offset
            indices = np.arange(self._first, self._first + _WINDOW, dtype=np.uint64)
            words = random_words(self._seed, indices, TOKEN_STREAM)
            self._window = ((words >> np.uint64(11)) * 2.0**-53).tolist()
        return self._window[offset]
