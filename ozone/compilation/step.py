"""What is compiled: a step of a model as a function of the runner's static inputs alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from ozone.engine.input_buffers import BatchCounts
from ozone.layers.batch import BatchContext
from ozone.ops.embedding import embedding
from ozone.ops.kv_cache import KVCache

if TYPE_CHECKING:
    from ozone.models.causal_lm import CausalLM


class StepInputs(NamedTuple):
    """The inputs of a step, as `BatchContext` and `CausalLM.forward` describe them."""

    token_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor
    block_tables: Tensor
    query_start_loc: Tensor
    seq_lens: Tensor

    def of(self, counts: BatchCounts) -> StepInputs:
        """Views of what belongs to a batch."""
        sizes = sizes_of(counts)
        return StepInputs(*(x[: sizes[size]] for x, size in zip(self, SIZES, strict=True)))


# Of the names of constants that are parts of KV caches.
KV_CACHE_PREFIX = "kv_cache."

# The first dimension of each input. Nothing else of a step varies.
SIZES = ("tokens", "tokens", "tokens", "requests", "request_starts", "requests")


def sizes_of(counts: BatchCounts) -> dict[str, int]:
    """What the names in `SIZES` stand for in a batch."""
    requests = counts.num_requests
    return {"tokens": counts.num_tokens, "requests": requests, "request_starts": requests + 1}


class Step(nn.Module):
    """`model` over KV caches that do not move."""

    def __init__(self, model: CausalLM, kv_caches: Sequence[KVCache]) -> None:
        super().__init__()
        self.model = model
        self.kv_caches = kv_caches

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        slot_mapping: Tensor,
        block_tables: Tensor,
        query_start_loc: Tensor,
        seq_lens: Tensor,
    ) -> Tensor:
        """`StepInputs` -> (tokens, hidden_size)."""
        batch = BatchContext(slot_mapping, block_tables, query_start_loc, seq_lens, self.kv_caches)
        hidden: Tensor = self.model(token_ids, positions, batch)
        return hidden

    def logits(self, hidden: Tensor, indices: Tensor) -> Tensor:
        """Hidden states of a step (tokens, hidden_size) and the tokens that are scored, (rows,) int64 ->
        (rows, vocab_size) float32.
        """
        rows = embedding(indices, hidden, 1.0, hidden.shape[1])
        return self.model.compute_logits(rows)

    def constants(self) -> Iterator[tuple[str, Tensor]]:
        """What has the same address in every step, by a name that is the same in every process: weights,
        tables, caches.
        """
        yield from self.model.named_parameters()
        yield from self.model.named_buffers()
        for layer, cache in enumerate(self.kv_caches):
            for part, tensor in cache._asdict().items():
                if tensor is not None:
                    yield f"{KV_CACHE_PREFIX}{layer}.{part}", tensor
