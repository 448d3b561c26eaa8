"""What runners of programs share: which mode a batch gets, and logits and tokens out of the same launches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ozone.compilation.compiled import CompiledStep
from ozone.compilation.compiler import RangeProgram
from ozone.compilation.lowering import Capacity
from ozone.compilation.step import Step
from ozone.config.schema import CompilationConfig, CUDAGraphMode
from ozone.engine.input_buffers import BatchCounts
from ozone.engine.sampling_table import SamplingTable
from ozone.graphs.dispatcher import BatchDescriptor, Dispatcher
from ozone.graphs.eager_runner import EagerRunner


class ReplayingRunner(EagerRunner):
    """Runs programs of a step. Subclasses make them."""

    # Whether batches without a graph run the model op by op, not the launches of a program one by one.
    _eager_without_graph = False

    @property
    def _capacity(self) -> Capacity:
        return Capacity(tokens=len(self._inputs.token_ids), requests=len(self._inputs.seq_lens))

    def _bind(self, programs: Sequence[RangeProgram], step: Step, compilation: CompilationConfig) -> None:
        """Take over what was made of `step`."""
        # More rows of logits than requests are only wanted for prompts that are reported on.
        self._programs = CompiledStep(
            programs, step, self._inputs, self._logits_indices, self._capacity.requests
        )
        self._dispatcher = Dispatcher(compilation.cudagraph_mode, compilation.cudagraph_capture_sizes)

    @property
    def graph_pool_bytes(self) -> int:
        return self._programs.pool_bytes

    def _logits(self, counts: BatchCounts, table: SamplingTable | None) -> NDArray[np.float32]:
        mode = self._mode(counts)
        if mode is None or not 0 < counts.num_logits <= self._programs.max_logits:
            return super()._logits(counts, table)
        return self._programs.logits(counts, mode, table)

    def _hidden(self, counts: BatchCounts) -> Tensor:
        mode = self._mode(counts)
        return super()._hidden(counts) if mode is None else self._programs.hidden(counts, mode)

    def _mode(self, counts: BatchCounts) -> CUDAGraphMode | None:
        """How the batch runs programs; None: it does not."""
        mode, _ = self._dispatcher.dispatch(BatchDescriptor(counts.num_tokens, counts.num_requests))
        return None if mode is CUDAGraphMode.NONE and self._eager_without_graph else mode
