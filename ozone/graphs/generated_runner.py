"""The runner of models that torch compiles: whole, or in the pieces that no program covers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ozone.compilation.by_tokens import ByTokens
from ozone.compilation.compiler import Phase, unnamed
from ozone.compilation.failures import naming
from ozone.compilation.generated import Backend, Functions, GeneratedStep
from ozone.compilation.observer import Observer
from ozone.compilation.pass_manager import run_passes
from ozone.compilation.pieces import split
from ozone.compilation.step import SIZES, Step, StepInputs
from ozone.compilation.trace import trace
from ozone.config.ranges import compiled_for
from ozone.config.schema import CompilationConfig, CompilationMode
from ozone.engine.input_buffers import BatchCounts
from ozone.graphs.eager_runner import EagerRunner
from ozone.ops.torch_threads import torch_threads


class GeneratedRunner(EagerRunner):
    """Compiles the model when it is made, for all numbers of tokens and requests."""

    def __init__(
        self,
        *args: Any,
        compilation: CompilationConfig,
        progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
        phase: Phase = unnamed,
        observer: Observer | None = None,
        **settings: Any,
    ) -> None:
        """Arguments of `EagerRunner`; how to compile; who is told how far it is, times the phases, looks on.

        Raises: `ConfigError` where the backend cannot work here, `CompileError` where it cannot compile the
            model.
        """
        observer = observer or Observer()
        backend = Backend(compilation.backend, compilation.inductor_compile_config)
        backend.check(f"-cc.mode={compilation.mode.name} with -cc.custom_ops={list(compilation.custom_ops)}")
        with phase("kv cache"):
            super().__init__(*args, **settings)
        # Generated code has the number of threads in it, and where Dynamo guards, it guards that number too.
        with torch_threads(self._num_threads):
            self._steps = self._compiled(compilation, backend, progress, phase, observer)

    def _compiled(
        self,
        compilation: CompilationConfig,
        backend: Backend,
        progress: Callable[[int, int], None],
        phase: Phase,
        observer: Observer,
    ) -> ByTokens[Callable[[BatchCounts], Tensor]]:
        path = compilation.debug_dump_path
        step = Step(self._model, self._kv_caches)
        most = len(self._inputs.token_ids)
        if compilation.mode is CompilationMode.STOCK_TORCH_COMPILE:
            with phase("generate code"), naming(f"{backend.name} cannot compile the model", path):
                return ByTokens([(1, most, _StockStep(step, self._inputs, backend, observer))])
        splitting_ops = compilation.splitting_ops if compilation.mode is CompilationMode.VLLM_COMPILE else ()
        with phase("trace"), naming("the model cannot be traced", path):
            traced = trace(step, self._inputs)
        observer.traced(traced)
        functions = Functions(backend)

        def generated(first: int, last: int) -> GeneratedStep:
            which = f"for {first} to {last} tokens"
            # Where passes do not run, the settings have them off.
            with phase("rewrite"), naming(f"the model cannot be rewritten {which}", path):
                rewritten = copy.copy(traced)
                rewritten.module = copy.deepcopy(traced.module)
                observer.begins(first, last, rewritten)
                run_passes(rewritten.module.graph, compilation, first, last, observer)
                pieces = split(rewritten.module.graph, splitting_ops)
            observer.split(pieces)
            exactly = first if first == last else None
            with phase("generate code"), naming(f"{backend.name} cannot compile the model {which}", path):
                return GeneratedStep(
                    rewritten, pieces, step, self._inputs, functions, progress, observer, exactly
                )

        ranges = compiled_for(compilation, most)
        return ByTokens([(first, last, generated(first, last)) for first, last in ranges])

    def _hidden(self, counts: BatchCounts) -> Tensor:
        return self._steps[counts.num_tokens](counts)


class _StockStep:
    """Plain `torch.compile` of the step, guards and all."""

    def __init__(self, step: Step, inputs: StepInputs, backend: Backend, observer: Observer) -> None:
        self._inputs = inputs
        options = dict(backend.options) if backend.name == "inductor" else None
        compiler = observer.watched(backend.name, options)
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
        with torch.inference_mode(), observer.generates(0, backend.name):
            self._compiled(*first)

    def __call__(self, counts: BatchCounts) -> Tensor:
        hidden: Tensor = self._compiled(*self._inputs.of(counts))
        return hidden
