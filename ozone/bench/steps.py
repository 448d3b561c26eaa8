"""Steps of a compiled model without an engine around them, for benchmarks that take them apart."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ozone.bench.workload import count, random_token_ids
from ozone.config.args import EngineArgs
from ozone.config.resolve import resolve
from ozone.config.schema import CompilationMode, CUDAGraphMode, OzoneConfig, PassConfig
from ozone.engine.input_buffers import InputBuffers
from ozone.engine.runner import ScheduledRequest
from ozone.errors import ConfigError
from ozone.native import platform_facts
from ozone.weights.model_files import ModelFiles, open_model_of

if TYPE_CHECKING:
    from torch import Tensor

    from ozone.compilation.compiled import CompiledStep
    from ozone.compilation.compiler import RangeProgram
    from ozone.engine.input_buffers import BatchCounts


class Prompt(NamedTuple):
    """What the buffers read of a request."""

    token_ids: list[int]
    block_ids: list[int]


@dataclasses.dataclass(frozen=True)
class Batch:
    """What a step is made for."""

    name: str
    scheduled: list[ScheduledRequest]

    @property
    def num_tokens(self) -> int:
        return sum(item.num_tokens for item in self.scheduled)


class Steps:
    """One model whose step is compiled, in several ways if need be, over the same weights and caches."""

    def __init__(self, files: ModelFiles, config: OzoneConfig, batches: Sequence[Batch]) -> None:
        import torch

        from ozone.compilation.step import Step, StepInputs
        from ozone.compilation.trace import trace
        from ozone.config.engine_settings import kv_cache_dtype
        from ozone.graphs.eager_runner import allocate_kv_caches
        from ozone.models import build_model, load_weights
        from ozone.native import set_num_threads
        from ozone.ops.choice import OpChoice

        self.model_config = files.config
        threads, cache = config.parallel.num_threads, config.cache
        set_num_threads(threads)
        torch.set_num_threads(threads)
        self.model = build_model(
            files.config,
            dtype=getattr(torch, config.model.dtype),
            max_model_len=config.model.max_model_len,
            op=OpChoice(config.compilation.custom_ops, compiled=True),
            kv_cache_dtype=cache.kv_cache_dtype,
        )
        load_weights(self.model, files.open_weights(), num_threads=threads)
        blocks = 1 + max(
            block for batch in batches for item in batch.scheduled for block in item.request.block_ids
        )
        dtype = kv_cache_dtype(cache.kv_cache_dtype, config.model.dtype)
        self._step = Step(self.model, allocate_kv_caches(files.config, cache.block_size, blocks, dtype))
        self.buffers = InputBuffers(
            max_num_batched_tokens=max(batch.num_tokens for batch in batches),
            max_num_seqs=max(len(batch.scheduled) for batch in batches),
            max_model_len=config.model.max_model_len,
            block_size=cache.block_size,
        )
        arrays = (getattr(self.buffers, name) for name in StepInputs._fields)
        self._inputs = StepInputs(*map(torch.from_numpy, arrays))
        self._logits_indices = torch.from_numpy(self.buffers.logits_indices)
        self._config = config.compilation
        self._traced = trace(self._step, self._inputs)

    def compile(self, passes: PassConfig) -> Sequence[RangeProgram]:
        """The programs of the step with these passes."""
        from ozone.compilation.compiler import compile_traced
        from ozone.compilation.lowering import Capacity

        capacity = Capacity(len(self._inputs.token_ids), len(self._inputs.seq_lens))
        config = dataclasses.replace(self._config, pass_config=passes)
        programs: Sequence[RangeProgram] = compile_traced(
            self._traced, self._step, self._inputs, config, capacity
        )
        return programs

    def bind(self, programs: Sequence[RangeProgram]) -> CompiledStep:
        """Programs over this model's memory."""
        from ozone.compilation.compiled import CompiledStep

        requests = len(self._inputs.seq_lens)
        return CompiledStep(programs, self._step, self._inputs, self._logits_indices, requests)

    def tensors(self) -> Mapping[str, Tensor]:
        """What programs point into, by name, but the pool."""
        return {**dict(self._step.constants()), **self._inputs._asdict()}

    def call(self, step: CompiledStep, counts: BatchCounts, mode: CUDAGraphMode) -> Callable[[], object]:
        """A step to its logits: everything but scheduling and sampling."""
        return lambda: step.logits(counts, mode)


def add_batch_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the flags that say which batches are measured."""
    group.add_argument(
        "--batch-sizes",
        type=counts,
        default=[1, 8],
        metavar="N,N",
        help="requests that decode (default: 1,8)",
    )
    group.add_argument(
        "--context-len", type=count, default=128, metavar="N", help="their tokens so far (default: 128)"
    )
    group.add_argument(
        "--prefill-len", type=count, default=128, metavar="N", help="tokens of a prompt (default: 128)"
    )


def counts(text: str) -> list[int]:
    """Numbers with commas between, from a command line."""
    try:
        return [count(word) for word in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; expected numbers with commas between") from None


def resolve_programs(args: EngineArgs, who: str) -> tuple[ModelFiles, OzoneConfig]:
    """The files of the model that `args` name, and the settings.

    Raises: `ConfigError`, in the name of `who`, where the model would not become programs.
    """
    from ozone.compilation.compile_process import runs_programs

    files = open_model_of(args)
    platform = platform_facts()
    config = resolve(args, files.config, platform)
    compilation = config.compilation
    programs = runs_programs(compilation, native=platform.native)
    if compilation.mode is not CompilationMode.VLLM_COMPILE or not programs:
        raise ConfigError(
            f"{who} measures programs: it needs the native library, -O1 or above, and -cc.custom_ops=all"
        )
    return files, config


def make_batches(
    files: ModelFiles, config: OzoneConfig, batch_sizes: Sequence[int], context: int, prefill: int
) -> list[Batch]:
    """Requests in blocks of their own, which are the same in every batch: decodes, then a prompt.

    Raises: `ConfigError` where they are longer than the model's context.
    """
    longest = max(context + 1, prefill)
    if longest > config.model.max_model_len:
        raise ConfigError(
            f"{longest} tokens are more than --max-model-len {config.model.max_model_len}: set --context-len "
            "and --prefill-len below it"
        )
    each = -(-longest // config.cache.block_size)
    vocabulary = range(files.config.vocab_size)
    prompts: list[Any] = [
        Prompt(token_ids, list(range(each * i, each * (i + 1))))
        for i, token_ids in enumerate(
            random_token_ids(max(batch_sizes), longest, vocabulary, config.model.seed)
        )
    ]
    return [
        *(
            Batch(f"decode, {n} at once", [ScheduledRequest(p, context, 1, "last") for p in prompts[:n]])
            for n in batch_sizes
        ),
        Batch(f"prefill, {prefill} tokens", [ScheduledRequest(prompts[0], 0, prefill, "last")]),
    ]


def seconds_of(call: Callable[[], object], repeats: int) -> float:
    """Of one of so many calls, on average."""
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats
