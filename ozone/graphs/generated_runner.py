"""The runner of models that torch compiles: whole, or in the pieces that no program covers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ozone.compilation.artifacts import ProgramCache
from ozone.compilation.by_tokens import ByTokens
from ozone.compilation.called import CalledStep
from ozone.compilation.compiler import Phase, unnamed
from ozone.compilation.failures import naming
from ozone.compilation.generated_cache import GeneratedCache, GeneratedSteps
from ozone.compilation.libraries import check_compiler
from ozone.compilation.lowering import Capacity
from ozone.compilation.observer import Observer
from ozone.compilation.step import SIZES, Step, StepInputs
from ozone.config.schema import CompilationConfig, CompilationMode
from ozone.engine.input_buffers import BatchCounts
from ozone.graphs.eager_runner import EagerRunner
from ozone.ops.torch_threads import torch_threads


class GeneratedRunner(EagerRunner):
    """Compiles the model when it is made, for all numbers of tokens and requests.

    Attributes:
        programs: what runs, and where it is from; None where that is torch's own affair.
    """

    def __init__(
        self,
        *args: Any,
        compilation: CompilationConfig,
        progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
        phase: Phase = unnamed,
        observer: Observer | None = None,
        kept: ProgramCache | None = None,
        **settings: Any,
    ) -> None:
        """Arguments of `EagerRunner`; how to compile; who is told how far it is, times the phases, looks on;
        and where what is generated is kept, None: nowhere.

        Raises: `ConfigError` where the backend cannot work here, `CompileError` where it cannot compile the
            model.
        """
        observer = observer or Observer()
        if compilation.mode is CompilationMode.STOCK_TORCH_COMPILE and compilation.backend == "inductor":
            check_compiler(f"-cc.mode={compilation.mode.name}", "-cc.mode=VLLM_COMPILE")
        with phase("kv cache"):
            super().__init__(*args, **settings)
        self.programs: GeneratedSteps | None = None
        # Generated code has the number of threads in it, and where Dynamo guards, it guards that number too.
        with torch_threads(self._num_threads):
            self._steps = self._compiled(compilation, kept, progress, phase, observer)

    def _compiled(
        self,
        compilation: CompilationConfig,
        kept: ProgramCache | None,
        progress: Callable[[int, int], None],
        phase: Phase,
        observer: Observer,
    ) -> ByTokens[Callable[[BatchCounts], Tensor]]:
        step = Step(self._model, self._kv_caches)
        most = len(self._inputs.token_ids)
        if compilation.mode is CompilationMode.STOCK_TORCH_COMPILE:
            failing = f"{compilation.backend} cannot compile the model"
            with phase("generate code"), naming(failing, compilation.debug_dump_path):
                return ByTokens([(1, most, _StockStep(step, self._inputs, compilation, observer))])
        cache = GeneratedCache() if kept is None else GeneratedCache(kept.directory, kept.label)
        capacity = Capacity(tokens=most, requests=len(self._inputs.seq_lens))
        self.programs = made = cache.load_or_generate(
            step, self._inputs, compilation, capacity, self._num_threads, progress, phase, observer
        )
        with phase("bind"):
            return ByTokens(
                (of.first, of.last, CalledStep(of.calls, step, self._inputs, made.libraries))
                for of in made.ranges
            )

    def _hidden(self, counts: BatchCounts) -> Tensor:
        return self._steps[counts.num_tokens](counts)


class _StockStep:
    """Plain `torch.compile` of the step, guards and all."""

    def __init__(
        self, step: Step, inputs: StepInputs, compilation: CompilationConfig, observer: Observer
    ) -> None:
        self._inputs = inputs
        backend = compilation.backend
        options = dict(compilation.inductor_compile_config) if backend == "inductor" else None
        compiler = observer.watched(backend, options)
        # Models of one process must not use up each other's number of compilations.
        alone: Any = {"isolate_recompiles": True}
        self._compiled = torch.compile(
            step, backend=compiler, fullgraph=True, dynamic=False, options=options, **alone
        )
        from torch._dynamo.decorators import mark_unbacked

        # A first step of zeros: requests without tokens. It writes to the first slot, which nobody has yet.
        zeros = StepInputs(*map(torch.zeros_like, inputs))
        first = zeros.of(BatchCounts(num_tokens=5, num_requests=3, num_logits=1))
        for tensor, size in zip(first, SIZES, strict=True):
            mark_unbacked(tensor, 0, shape_id=size)
        with torch.inference_mode(), observer.generates(0, backend):
            self._compiled(*first)

    def __call__(self, counts: BatchCounts) -> Tensor:
        hidden: Tensor = self._compiled(*self._inputs.of(counts))
        return hidden
