"""The runner of a compiled model: programs instead of Python between the inputs and the hidden states."""

from __future__ import annotations

from typing import Any

from ozone.compilation.artifacts import ProgramCache, Programs
from ozone.compilation.compiler import Phase, compile_step, unnamed
from ozone.compilation.observer import Observer
from ozone.compilation.step import Step
from ozone.config.schema import CompilationConfig
from ozone.graphs.replaying_runner import ReplayingRunner


class CompiledRunner(ReplayingRunner):
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
        step, capacity = Step(self._model, self._kv_caches), self._capacity
        if kept is None:
            ranges = compile_step(step, self._inputs, compilation, capacity, phase, observer)
            self.programs = Programs(ranges)
        else:
            self.programs = kept.load_or_compile(step, self._inputs, compilation, capacity, phase, observer)
        with phase("bind"):
            self._bind(self.programs.ranges, step, compilation)
