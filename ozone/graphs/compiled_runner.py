"""The runner of a compiled model: programs instead of Python between the inputs and the hidden states."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ozone.compilation.artifacts import ProgramCache, Programs
from ozone.compilation.compiled import CompiledStep
from ozone.compilation.compiler import Phase, compile_step, unnamed
from ozone.compilation.lowering import Capacity
from ozone.compilation.observer import Observer
from ozone.compilation.step import Step
from ozone.config.schema import CompilationConfig
from ozone.engine.input_buffers import BatchCounts
from ozone.graphs.dispatcher import BatchDescriptor, Dispatcher
from ozone.graphs.eager_runner import EagerRunner


class CompiledRunner(EagerRunner):
    """Compiles the model when it is made, for all batches that the settings allow.

    Attributes:
        programs: what runs, and where it is from.
    """

    def __init__(
        self,
        *args: Any,
        compilation: CompilationConfig,
        kept: ProgramCache | None = None,
        phase: Phase = unnamed,
        observer: Observer | None = None,
        **settings: Any,
    ) -> None:
        """Arguments of `EagerRunner`; how to compile; where programs are kept, None: nowhere; what times the
        phases of it all; and who looks on.
        """
        with phase("kv cache"):
            super().__init__(*args, **settings)
        step = Step(self._model, self._kv_caches)
        capacity = Capacity(tokens=len(self._inputs.token_ids), requests=len(self._inputs.seq_lens))
        if kept is None:
            ranges = compile_step(step, self._inputs, compilation, capacity, phase, observer)
            self.programs = Programs(ranges)
        else:
            self.programs = kept.load_or_compile(step, self._inputs, compilation, capacity, phase, observer)
        with phase("bind"):
            self._compiled = CompiledStep(self.programs.ranges, step, self._inputs)
        self._dispatcher = Dispatcher(compilation.cudagraph_mode, compilation.cudagraph_capture_sizes)

    @property
    def graph_pool_bytes(self) -> int:
        return self._compiled.pool_bytes

    def _hidden(self, counts: BatchCounts) -> Tensor:
        mode, _ = self._dispatcher.dispatch(BatchDescriptor(counts.num_tokens, counts.num_requests))
        return self._compiled(counts, mode)
