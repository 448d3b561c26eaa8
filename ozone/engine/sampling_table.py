"""The sampler's static memory: parameters of each row of logits, and the tokens that are chosen from them.

It does not move while a batch is served, so that a runner may choose tokens in the same launch as the logits.
"""

from __future__ import annotations

import numpy as np

from ozone.native import allocate

# SamplingRow of csrc/kernels/sampling.h. Lists are an address and a length.
ROW = np.dtype(
    [
        ("position", np.int64),
        ("seed", np.uint64),
        ("temperature", np.float64),
        ("log_min_p", np.float64),
        ("top_p", np.float64),
        ("top_k", np.int64),
        ("allowed", np.int64, 2),
        ("banned", np.int64, 2),
        ("biased", np.int64, 3),
        ("seen", np.int64, 3),
        ("repetition_penalty", np.float64),
        ("frequency_penalty", np.float64),
        ("presence_penalty", np.float64),
    ]
)


class SamplingTable:
    """Rows of parameters and of chosen tokens, one for each row of logits.

    Attributes:
        rows: (rows,) `ROW`.
        positions: a view of the rows' field of that name.
        token_ids: (rows,) int64, as the kernel ``sample`` writes them.
        chosen: whether `token_ids` are those of the step at hand. Who fills the rows clears it, who launches
            the kernel sets it.
    """

    def __init__(self, num_rows: int) -> None:
        memory = allocate("sampler", num_rows * (ROW.itemsize + 8))
        self.rows = memory[: num_rows * ROW.itemsize].view(ROW)
        self.positions = self.rows["position"]
        self.token_ids = memory[num_rows * ROW.itemsize :].view(np.int64)
        self.chosen = False

    def __len__(self) -> int:
        return len(self.rows)
