"""Which runner the settings ask for, and what stands in for it where that cannot be."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ozone.compilation.compile_process import CompileProcess, runs_programs
from ozone.compilation.debug_dump.directory import dump_path
from ozone.compilation.observer import Observer
from ozone.config.model import ModelConfig
from ozone.config.schema import CompilationConfig, CompilationMode, CUDAGraphMode, OzoneConfig
from ozone.graphs.eager_runner import EagerRunner

if TYPE_CHECKING:
    from ozone.compilation.artifacts import ProgramCache
    from ozone.compilation.compiler import Phase
    from ozone.compilation.tuning.tuner import Tuning
    from ozone.models.causal_lm import CausalLM

logger = logging.getLogger("ozone")

# Shows a bar of pieces while it is entered; yields a callback (done, total).
Progress = Callable[[], AbstractContextManager[Callable[[int, int], None]]]


def make_runner(
    model: CausalLM,
    model_config: ModelConfig,
    config: OzoneConfig,
    *,
    native: bool,
    phase: Phase,
    progress: Progress,
    tuning_progress: Progress,
    process: CompileProcess | None = None,
) -> EagerRunner:
    """The runner of a loaded model, compiled or captured as the settings say.

    Args:
        native: whether the native library is built.
        phase: what times the phases of this.
        progress, tuning_progress: what shows how far compiling and tuning are.
        process: where to make programs; None: in this one.

    Raises: `ConfigError` for settings that cannot work here, `CompileError` where compiling the model fails.
    """
    with _observed(config, phase) as (observer, timed):
        tunes = native and config.kernel.enable_flashinfer_autotune
        tuning = None
        if tunes and process is None:
            tuning = _tuned(model, config, timed, tuning_progress)
            observer.tuned(tuning)
        runner = _make(model, model_config, config, native, timed, progress, observer, tuning, process)
        if tunes and process is not None:
            process.stop()  # what is measured beside it would be wrong
            runner.tuning = _tuned(model, config, timed, tuning_progress)
            observer.tuned(runner.tuning)
        return runner


def _tuned(model: CausalLM, config: OzoneConfig, phase: Phase, progress: Progress) -> Tuning:
    from ozone.compilation.tuning.tuner import Tuner

    tuner = Tuner(
        Path(config.compilation.cache_dir),
        config.model.model,
        config.parallel.num_threads,
        most_tokens=config.scheduler.max_num_batched_tokens,
        most_requests=config.scheduler.max_num_seqs,
    )
    return tuner.tune(model, phase, progress)


@contextmanager
def _observed(config: OzoneConfig, phase: Phase) -> Iterator[tuple[Observer, Phase]]:
    """Who looks on while a runner is made, and what times its phases then."""
    path = dump_path(config)
    if path is None:
        yield Observer(), phase
        return
    from ozone.compilation.debug_dump.recorder import DebugDump

    with DebugDump(config, path) as dump:
        yield dump, dump.timed(phase)


def _make(
    model: CausalLM,
    model_config: ModelConfig,
    config: OzoneConfig,
    native: bool,
    phase: Phase,
    progress: Progress,
    observer: Observer,
    tuning: Tuning | None,
    process: CompileProcess | None,
) -> EagerRunner:
    compilation = config.compilation
    settings: dict[str, Any] = {
        "dtype": config.model.dtype,
        "cache": config.cache,
        "scheduler": config.scheduler,
        "max_model_len": config.model.max_model_len,
        "num_threads": config.parallel.num_threads,
        "tuning": tuning,
    }

    def eager() -> EagerRunner:
        with phase("kv cache"):
            return EagerRunner(model, model_config, **settings)

    def generated(how: CompilationConfig) -> EagerRunner:
        from ozone.graphs.generated_runner import GeneratedRunner

        with progress() as report:
            return GeneratedRunner(
                model,
                model_config,
                compilation=how,
                kept=_program_cache(compilation, label),
                progress=report,
                phase=phase,
                observer=observer,
                **settings,
            )

    label = {"model": config.model.model, "level": config.optimization_level, "dtype": config.model.dtype}
    asked = config.settings["compilation_config.mode"].origin == "user"
    if compilation.mode is CompilationMode.NONE or not (native or asked):
        if compilation.cudagraph_mode is CUDAGraphMode.NONE or not native:
            return eager()
        return _captured(model, model_config, compilation, settings, phase, observer) or eager()
    if not runs_programs(compilation, native=native):
        return generated(compilation)
    compiled = _compiled(model, model_config, compilation, settings, phase, observer, label, process)
    # Runs as it was traced, which needs no C++ compiler.
    return compiled or generated(dataclasses.replace(compilation, backend="eager"))


def _captured(
    model: CausalLM,
    model_config: ModelConfig,
    compilation: CompilationConfig,
    settings: Mapping[str, Any],
    phase: Phase,
    observer: Observer,
) -> EagerRunner | None:
    from ozone.compilation.failures import ForeignOpError
    from ozone.graphs.captured_runner import CapturedRunner

    try:
        with phase("capture"):
            return CapturedRunner(model, model_config, compilation=compilation, observer=observer, **settings)
    except ForeignOpError as error:
        _warn(observer, f"cudagraph_mode is lowered to NONE: in this model, {error}")
        return None


def _compiled(
    model: CausalLM,
    model_config: ModelConfig,
    compilation: CompilationConfig,
    settings: Mapping[str, Any],
    phase: Phase,
    observer: Observer,
    label: Mapping[str, Any],
    process: CompileProcess | None,
) -> EagerRunner | None:
    from ozone.compilation.failures import ForeignOpError
    from ozone.graphs.compiled_runner import CompiledRunner

    try:
        return CompiledRunner(
            model,
            model_config,
            compilation=compilation,
            kept=_program_cache(compilation, label, process),
            phase=phase,
            observer=observer,
            **settings,
        )
    except ForeignOpError as error:
        _warn(observer, f"the model runs op by op, and cudagraph_mode is lowered to NONE: in it, {error}")
        return None


def _program_cache(
    compilation: CompilationConfig, label: Mapping[str, Any], process: CompileProcess | None = None
) -> ProgramCache | None:
    """Where what is compiled is kept; None: nowhere, as the user asks."""
    from ozone.compilation.artifact_store import cache_disabled
    from ozone.compilation.artifacts import ProgramCache

    return None if cache_disabled() else ProgramCache(Path(compilation.cache_dir), label, process)


def _warn(observer: Observer, text: str) -> None:
    logger.warning("%s", text)
    observer.noted(text)
