"""The static inputs of a step: preallocated arrays that the runner fills and whatever computes reads."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ozone.engine.runner import ScheduledRequest
from ozone.errors import ConfigError

_MAX_TABLE_ENTRIES = 1 << 29  # 2 GB


@functools.cache
def _packer(code: str, count: int) -> Callable[..., None]:
    return struct.Struct(f"={count}{code}").pack_into


class _Numbers:
    """Writes Python's integers into an array: at once, in a third of the time that numpy takes for few."""

    __slots__ = ("_code", "_memory", "_size")

    def __init__(self, array: np.ndarray) -> None:
        self._code, self._size = ("i", 4) if array.dtype == np.int32 else ("q", 8)
        self._memory = array.data.cast("B")

    def write(self, first: int, values: Sequence[int]) -> None:
        _packer(self._code, len(values))(self._memory, first * self._size, *values)


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
        self._write_token_ids = _Numbers(self.token_ids).write
        self._write_positions = _Numbers(self.positions).write
        self._write_slots = _Numbers(self.slot_mapping).write
        self._write_query_start_loc = _Numbers(self.query_start_loc).write
        self._write_seq_lens = _Numbers(self.seq_lens).write
        self._write_logits_indices = _Numbers(self.logits_indices).write
        # Of the last step, where it was all decode: the positions after it, and its slots.
        self._next_positions: list[int] = []
        self._slots: list[int] = []
        # What a row of the block tables holds: blocks of which list, and how many. A request's list only
        # grows; who loses its blocks gets another list.
        self._blocks_of: list[list[int] | None] = [None] * max_num_seqs
        self._num_blocks = [0] * max_num_seqs

    def fill(self, scheduled: list[ScheduledRequest]) -> BatchCounts:
        """Write the inputs of a step."""
        for item in scheduled:
            if item.num_tokens != 1 or item.logits != "last":
                self._next_positions = []
                return self._fill_spans(scheduled)
        return self._fill_singles(scheduled)

    def _fill_singles(self, scheduled: list[ScheduledRequest]) -> BatchCounts:
        """Inputs of a token each (decode), with its logits.

        Where all of them follow those of the step before, the lists of blocks, which have left the caches,
        are only looked at where a block begins.
        """
        block_size = self.block_size
        positions = [item.start for item in scheduled]
        blocks = [item.request.block_ids for item in scheduled]
        count = len(positions)
        follows = positions == self._next_positions and blocks == self._blocks_of[:count]
        slots = [slot + 1 for slot in self._slots] if follows else [0] * count
        for row, position in enumerate(positions):
            if not follows or position % block_size == 0:
                block = position // block_size
                self._write_blocks(row, blocks[row], block + 1)
                slots[row] = blocks[row][block] * block_size + position % block_size
        next_positions = [position + 1 for position in positions]
        self._write_token_ids(0, [item.request.token_ids[item.start] for item in scheduled])
        self._write_positions(0, positions)
        self._write_slots(0, slots)
        self._write_seq_lens(0, next_positions)
        if len(self._next_positions) != count:
            self._write_query_start_loc(0, range(count + 1))
            self._write_logits_indices(0, range(count))
        self._next_positions, self._slots = next_positions, slots
        return BatchCounts(count, count, count)

    def _fill_spans(self, scheduled: list[ScheduledRequest]) -> BatchCounts:
        """Inputs of any tokens.

        Runs of single ones are gathered in lists and written at once: an assignment to an array costs more
        than what it assigns.
        """
        block_size = self.block_size
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        query_start_loc = [0]
        seq_lens: list[int] = []
        logits_indices: list[int] = []
        first = end = 0
        for row, item in enumerate(scheduled):
            request, start, count = item.request, item.start, item.num_tokens
            block_ids, stop = request.block_ids, start + count
            last_block = (stop - 1) // block_size
            self._write_blocks(row, block_ids, last_block + 1)
            if count == 1:
                token_ids.append(request.token_ids[start])
                positions.append(start)
                slots.append(block_ids[last_block] * block_size + start % block_size)
            else:
                self._write_run(first, token_ids, positions, slots)
                self._write_span(end, row, item)
                first = end + count
                token_ids, positions, slots = [], [], []
            end += count
            query_start_loc.append(end)
            seq_lens.append(stop)
            if item.logits == "last":
                logits_indices.append(end - 1)
            elif item.logits == "all":
                logits_indices.extend(range(end - count, end))
        self._write_run(first, token_ids, positions, slots)
        self._write_query_start_loc(0, query_start_loc)
        self._write_seq_lens(0, seq_lens)
        self._write_logits_indices(0, logits_indices)
        return BatchCounts(end, len(seq_lens), len(logits_indices))

    def _write_run(self, first: int, token_ids: list[int], positions: list[int], slots: list[int]) -> None:
        self._write_token_ids(first, token_ids)
        self._write_positions(first, positions)
        self._write_slots(first, slots)

    def _write_blocks(self, row: int, block_ids: list[int], count: int) -> None:
        """Let a row of the block tables begin with these, if it does not already."""
        if self._blocks_of[row] is block_ids and self._num_blocks[row] >= count:
            return
        self.block_tables[row, :count] = block_ids[:count]
        self._blocks_of[row], self._num_blocks[row] = block_ids, count

    def _write_span(self, first: int, row: int, item: ScheduledRequest) -> None:
        block_size = self.block_size
        start, stop = item.start, item.start + item.num_tokens
        span = slice(first, first + item.num_tokens)
        positions = np.arange(start, stop)
        self.token_ids[span] = item.request.token_ids[start:stop]
        self.positions[span] = positions
        blocks = self.block_tables[row].astype(np.int64)[positions // block_size]
        self.slot_mapping[span] = blocks * block_size + positions % block_size
