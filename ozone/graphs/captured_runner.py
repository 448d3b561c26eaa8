"""The runner of a model that is not compiled and whose steps replay: a full graph, recorded from a run."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ozone.compilation.compiled import CompiledStep
from ozone.compilation.compiler import RangeProgram
from ozone.compilation.failures import naming
from ozone.compilation.lowering import Capacity, capture
from ozone.compilation.observer import Observer
from ozone.compilation.step import Step
from ozone.config.schema import CompilationConfig, CUDAGraphMode
from ozone.engine.input_buffers import BatchCounts
from ozone.graphs.dispatcher import BatchDescriptor, Dispatcher
from ozone.graphs.eager_runner import EagerRunner


class CapturedRunner(EagerRunner):
    """Replays the batches that a graph was captured for, and runs the model for all others."""

    def __init__(
        self, *args: Any, compilation: CompilationConfig, observer: Observer | None = None, **settings: Any
    ) -> None:
        """Arguments of `EagerRunner`, what to capture, and who looks on."""
        observer = observer or Observer()
        super().__init__(*args, **settings)
        step = Step(self._model, self._kv_caches)
        capacity = Capacity(tokens=len(self._inputs.token_ids), requests=len(self._inputs.seq_lens))
        with naming("the model cannot be captured", compilation.debug_dump_path):
            lowered = capture(step, self._inputs, capacity, observer)
        observer.captured(capacity.tokens, lowered)
        whole = RangeProgram(1, capacity.tokens, lowered)
        self._captured = CompiledStep([whole], step, self._inputs)
        self._dispatcher = Dispatcher(compilation.cudagraph_mode, compilation.cudagraph_capture_sizes)

    @property
    def graph_pool_bytes(self) -> int:
        return self._captured.pool_bytes

    def _hidden(self, counts: BatchCounts) -> Tensor:
        mode, _ = self._dispatcher.dispatch(BatchDescriptor(counts.num_tokens, counts.num_requests))
        if mode is CUDAGraphMode.NONE:
            return super()._hidden(counts)
        return self._captured(counts, mode)
