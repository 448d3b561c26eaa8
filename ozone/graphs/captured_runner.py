"""The runner of a model that is not compiled and whose steps replay: a full graph, recorded from a run."""

from __future__ import annotations

from typing import Any

from ozone.compilation.compiler import RangeProgram
from ozone.compilation.failures import naming
from ozone.compilation.lowering import capture
from ozone.compilation.observer import Observer
from ozone.compilation.step import Step
from ozone.config.schema import CompilationConfig
from ozone.graphs.replaying_runner import ReplayingRunner


class CapturedRunner(ReplayingRunner):
    """Replays the batches that a graph was captured for, and runs the model for all others."""

    _eager_without_graph = True

    def __init__(
        self, *args: Any, compilation: CompilationConfig, observer: Observer | None = None, **settings: Any
    ) -> None:
        """Arguments of `EagerRunner`, what to capture, and who looks on."""
        observer = observer or Observer()
        super().__init__(*args, **settings)
        step, capacity = Step(self._model, self._kv_caches), self._capacity
        with naming("the model cannot be captured", compilation.debug_dump_path):
            lowered = capture(step, self._inputs, capacity, observer)
            self._bind([RangeProgram(1, capacity.tokens, lowered)], step, compilation)
        observer.captured(capacity.tokens, lowered)
