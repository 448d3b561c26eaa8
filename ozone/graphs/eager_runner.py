"""The runner without compilation and without graphs: fill the buffers, call the model, return the logits."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ozone.compilation.step import StepInputs
from ozone.config.engine_settings import kv_bytes_per_token, kv_cache_dtype
from ozone.config.model import ModelConfig
from ozone.config.schema import CacheConfig, SchedulerConfig
from ozone.engine.input_buffers import BatchCounts, InputBuffers
from ozone.engine.runner import ScheduledRequest
from ozone.errors import ConfigError
from ozone.layers.batch import BatchContext
from ozone.native import set_num_threads, set_ways
from ozone.ops.kv_cache import CacheLayout, KVCache

if TYPE_CHECKING:
    from ozone.compilation.tuning.tuner import Tuning
    from ozone.engine.sampling_table import SamplingTable
    from ozone.models.causal_lm import CausalLM


_CACHE_DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}


def kv_block_bytes(config: ModelConfig, block_size: int, dtype: str) -> int:
    """Bytes that one block of the KV cache takes over all layers; `dtype` is the cache's type."""
    return block_size * kv_bytes_per_token(config, dtype)


class EagerRunner:
    """Runs a model step by step in plain PyTorch. See `ozone.engine.runner.Runner`."""

    def __init__(
        self,
        model: CausalLM,
        model_config: ModelConfig,
        *,
        dtype: str,
        cache: CacheConfig,
        scheduler: SchedulerConfig,
        max_model_len: int,
        num_threads: int,
        tuning: Tuning | None = None,
    ) -> None:
        """
        Args:
            tuning: which ways kernels take; None: their default ones.

        Raises: `ConfigError` where the KV cache could not hold one request of `max_model_len` tokens.
        """
        self.tuning = tuning
        self._num_threads = num_threads
        set_num_threads(num_threads)
        self._thread: int | None = None
        self.block_size = cache.block_size
        self.vocab_size = model_config.vocab_size
        cache_dtype = kv_cache_dtype(cache.kv_cache_dtype, dtype)
        self.num_blocks = _num_blocks(model_config, cache, cache_dtype, max_model_len)
        self._model = model
        self._kv_caches = allocate_kv_caches(model_config, cache.block_size, self.num_blocks, cache_dtype)
        self._buffers = InputBuffers(
            max_num_batched_tokens=scheduler.max_num_batched_tokens,
            max_num_seqs=scheduler.max_num_seqs,
            max_model_len=max_model_len,
            block_size=cache.block_size,
        )
        # The same memory as the buffers', as torch sees it.
        arrays = (getattr(self._buffers, name) for name in StepInputs._fields)
        self._inputs = StepInputs(*map(torch.from_numpy, arrays))
        self._logits_indices = torch.from_numpy(self._buffers.logits_indices)
        self._no_logits = np.empty((0, self.vocab_size), np.float32)

    @property
    def kv_cache_bytes(self) -> int:
        """Bytes of the whole KV cache."""
        return sum(part.nbytes for cache in self._kv_caches for part in cache if part is not None)

    @property
    def graph_pool_bytes(self) -> int:
        """Bytes of the pool that programs keep values between launches in; 0 without programs."""
        return 0

    @torch.inference_mode()
    def execute(
        self, scheduled: list[ScheduledRequest], table: SamplingTable | None = None
    ) -> NDArray[np.float32]:
        """One step; float32 logits (rows, vocab_size), see `Runner.execute`."""
        if self._thread != threading.get_ident():
            self._adopt_thread()
        return self._logits(self._buffers.fill(scheduled), table)

    def _logits(
        self,
        counts: BatchCounts,
        table: SamplingTable | None,  # noqa: ARG002 (the sampler chooses)
    ) -> NDArray[np.float32]:
        """Logits of the batch that the buffers hold."""
        hidden = self._hidden(counts)
        if counts.num_logits == 0:
            return self._no_logits
        # Where every token is sampled from, as in decoding, no row has to be moved: 20 to 50 us saved.
        everyone = counts.num_logits == counts.num_tokens
        rows = hidden if everyone else hidden.index_select(0, self._logits_indices[: counts.num_logits])
        logits: NDArray[np.float32] = self._model.compute_logits(rows).numpy()
        return logits

    def _adopt_thread(self) -> None:
        # OpenMP keeps the size of its team for each calling thread, and the library the ways of kernels; the
        # engine's is not the one in which the runner was made.
        self._thread = threading.get_ident()
        torch.set_num_threads(self._num_threads)
        set_ways([] if self.tuning is None else self.tuning.table())

    def _hidden(self, counts: BatchCounts) -> Tensor:
        """(tokens, hidden_size) of the batch that the buffers hold."""
        inputs = self._inputs.of(counts)
        batch = BatchContext(
            slot_mapping=inputs.slot_mapping,
            block_tables=inputs.block_tables,
            query_start_loc=inputs.query_start_loc,
            seq_lens=inputs.seq_lens,
            kv_caches=self._kv_caches,
        )
        hidden: Tensor = self._model(inputs.token_ids, inputs.positions, batch)
        return hidden


def _num_blocks(config: ModelConfig, cache: CacheConfig, dtype: str, max_model_len: int) -> int:
    block_bytes = kv_block_bytes(config, cache.block_size, dtype)
    num_blocks = cache.kv_cache_memory_bytes // block_bytes
    needed = -(-max_model_len // cache.block_size)
    if num_blocks < needed:
        raise ConfigError(
            f"--kv-cache-memory-bytes {cache.kv_cache_memory_bytes} holds {num_blocks * cache.block_size} "
            f"tokens, less than one request of --max-model-len {max_model_len}: set it to at least "
            f"{needed * block_bytes}, or --max-model-len to at most {num_blocks * cache.block_size}"
        )
    return num_blocks


def allocate_kv_caches(config: ModelConfig, block_size: int, num_blocks: int, dtype: str) -> list[KVCache]:
    kind = _CACHE_DTYPES.get(dtype) or getattr(torch, dtype)
    layout = CacheLayout(num_blocks, block_size, config.num_kv_heads, config.head_dim, kind)
    return [layout.allocate(f"KV cache {layer}") for layer in range(config.num_layers)]
