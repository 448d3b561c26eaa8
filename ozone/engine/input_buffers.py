"""The static inputs of a step: preallocated arrays that the runner fills and whatever computes reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ozone.engine.runner import ScheduledRequest
from ozone.errors import ConfigError

_MAX_TABLE_ENTRIES = 1 << 29  # 2 GB


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """How much of the buffers a step uses."""

    num_tokens: int
    num_requests: int
    num_logits: int


class InputBuffers:
    """Inputs of one step, sized once for the largest. Only the first `BatchCounts` entries are meaningful.

    Attributes:
        token_ids: (tokens,) int32.
        positions: (tokens,) int32, position of each token in its request.
        slot_mapping: (tokens,) int64, ``block_id * block_size + offset`` of each token in the KV cache.
        query_start_loc: (requests + 1,) int32, first token of each request, then the number of tokens.
        seq_lens: (requests,) int32, positions of each request once the step is done.
        block_tables: (requests, blocks) int32, block ids of each request in order; what lies behind a
            request's last block is stale.
        logits_indices: (tokens,) int64, tokens whose logits are wanted.
    """

    def __init__(
        self, *, max_num_batched_tokens: int, max_num_seqs: int, max_model_len: int, block_size: int
    ) -> None:
        """Raises: `ConfigError` where the block tables would be larger than any sane ones."""
        blocks = -(-max_model_len // block_size)
        if max_num_seqs * blocks > _MAX_TABLE_ENTRIES:
            raise ConfigError(
                f"--max-num-seqs {max_num_seqs} requests of --max-model-len {max_model_len} tokens need "
                f"block tables of {max_num_seqs * blocks} entries: at --block-size {block_size} "
                f"set --max-model-len to at most {_MAX_TABLE_ENTRIES // max_num_seqs * block_size}"
            )
        self.block_size = block_size
        self.token_ids = np.zeros(max_num_batched_tokens, np.int32)
        self.positions = np.zeros(max_num_batched_tokens, np.int32)
        self.slot_mapping = np.zeros(max_num_batched_tokens, np.int64)
        self.query_start_loc = np.zeros(max_num_seqs + 1, np.int32)
        self.seq_lens = np.zeros(max_num_seqs, np.int32)
        self.block_tables = np.zeros((max_num_seqs, blocks), np.int32)
        self.logits_indices = np.zeros(max_num_batched_tokens, np.int64)
        # What a row of the block tables holds: blocks of which list, and how many. A request's list only
        # grows; who loses its blocks gets another list.
        self._blocks_of: list[list[int] | None] = [None] * max_num_seqs
        self._num_blocks = [0] * max_num_seqs

    def fill(self, scheduled: list[ScheduledRequest]) -> BatchCounts:
        """Write the inputs of a step.

        Runs of single tokens (decode) are gathered in lists and written at once: an assignment to an array
        costs more than what it assigns.
        """
        block_size, block_tables = self.block_size, self.block_tables
        blocks_of, num_written = self._blocks_of, self._num_blocks
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        query_start_loc = [0]
        seq_lens: list[int] = []
        logits_indices: list[int] = []
        first = end = 0
        for row, item in enumerate(scheduled):
            request, start, count = item.request, item.start, item.num_tokens
            block_ids = request.block_ids
            num_blocks = (start + count - 1) // block_size + 1
            if blocks_of[row] is not block_ids or num_written[row] < num_blocks:
                block_tables[row, :num_blocks] = block_ids[:num_blocks]
                blocks_of[row], num_written[row] = block_ids, num_blocks
            end += count
            if count == 1:
                token_ids.append(request.token_ids[start])
                positions.append(start)
                slots.append(block_ids[num_blocks - 1] * block_size + start % block_size)
            else:
                self._write_singles(first, token_ids, positions, slots)
                self._write_span(end - count, row, item)
                first = end
                token_ids, positions, slots = [], [], []
            query_start_loc.append(end)
            seq_lens.append(start + count)
            if item.logits == "last":
                logits_indices.append(end - 1)
            elif item.logits == "all":
                logits_indices.extend(range(end - count, end))
        self._write_singles(first, token_ids, positions, slots)
        num_requests, num_logits = len(seq_lens), len(logits_indices)
        self.query_start_loc[: num_requests + 1] = query_start_loc
        self.seq_lens[:num_requests] = seq_lens
        self.logits_indices[:num_logits] = logits_indices
        return BatchCounts(end, num_requests, num_logits)

    def _write_singles(
        self, first: int, token_ids: list[int], positions: list[int], slots: list[int]
    ) -> None:
        last = first + len(token_ids)
        self.token_ids[first:last] = token_ids
        self.positions[first:last] = positions
        self.slot_mapping[first:last] = slots

    def _write_span(self, first: int, row: int, item: ScheduledRequest) -> None:
        start, stop = item.start, item.start + item.num_tokens
        span = slice(first, first + item.num_tokens)
        positions = np.arange(start, stop)
        self.token_ids[span] = item.request.token_ids[start:stop]
        self.positions[span] = positions
        blocks = self.block_tables[row].astype(np.int64)[positions // self.block_size]
        self.slot_mapping[span] = blocks * self.block_size + positions % self.block_size
