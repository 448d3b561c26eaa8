"""Compiling in a process of its own. Never imports torch by itself.

That process imports Dynamo while this one imports torch and loads weights, and the memory that a trace takes
goes with it. Which starts compile is guessed from what earlier ones left: a wrong guess costs time alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ozone.compilation.artifact_file import DamagedArtifactError, pack, unpack
from ozone.compilation.artifact_store import ArtifactStore, UnusableStoreError, cache_disabled
from ozone.config.custom_ops import all_enabled
from ozone.config.schema import CompilationConfig, CompilationMode, OzoneConfig
from ozone.parent import TiedProcess
from ozone.version import __version__

if TYPE_CHECKING:
    from ozone.compilation.compiler import Phase, RangeProgram
    from ozone.compilation.lowering import Capacity
    from ozone.compilation.step import Step, StepInputs

logger = logging.getLogger("ozone")

ROOM = "starts"
_MAX_BYTES = 1 << 20
_COMMAND = (sys.executable, "-m", "ozone.compilation.compile_child")
# Longer than any model takes to compile.
_PATIENCE_SECONDS = 120.0


def runs_programs(compilation: CompilationConfig, *, native: bool) -> bool:
    """Whether a model becomes programs of native kernels: each of its ops has to be one node of its trace."""
    traced = compilation.mode in (CompilationMode.DYNAMO_TRACE_ONCE, CompilationMode.VLLM_COMPILE)
    return native and traced and all_enabled(compilation.custom_ops, compiled=True)


def open_starts(cache_dir: Path, *, create: bool = True) -> ArtifactStore:
    """What starts left for later ones to guess from. Raises: `UnusableStoreError`."""
    return ArtifactStore(cache_dir, room=ROOM, create=create, max_bytes=_MAX_BYTES)


def compiled_before(config: OzoneConfig) -> bool:
    """Whether a start with these settings has kept programs that are still there."""
    directory = Path(config.compilation.cache_dir)
    try:
        with open_starts(directory, create=False) as store:
            content = store.read(_start_key(config))
        if content is None:
            return False
        with ArtifactStore(directory, create=False) as programs:
            return programs.file(str(unpack(content)[0]["programs"])).exists()
    except (OSError, UnusableStoreError, DamagedArtifactError, KeyError):
        return False


def remember(config: OzoneConfig, kept: Path) -> None:
    """Tell later starts with these settings that the programs in `kept` are there for them."""
    try:
        with open_starts(Path(config.compilation.cache_dir)) as store:
            key, content = _start_key(config), pack({"programs": kept.stem}, [])
            if store.read(key) != content:
                store.write(key, content)
    except (OSError, UnusableStoreError) as error:
        logger.debug("not remembered: %s", error)


def _start_key(config: OzoneConfig) -> str:
    told = [
        __version__,
        config.model.model,
        config.model.dtype,
        config.model.max_model_len,
        config.cache.block_size,
        config.cache.kv_cache_dtype,
        dataclasses.asdict(config.scheduler),
        dataclasses.asdict(config.compilation),
        os.environ.get("OZONE_ISA"),
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


class CompileProcess:
    """A process that waits for a step to compile. A context manager: in the end it is gone."""

    def __init__(self, command: Sequence[str] = _COMMAND) -> None:
        """Raises: `OSError` where there can be no process."""
        self._process = TiedProcess(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> CompileProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def compile(
        self,
        step: Step,
        inputs: StepInputs,
        config: CompilationConfig,
        capacity: Capacity,
        span_bytes: Mapping[str, int],
        phase: Phase,
    ) -> Sequence[RangeProgram] | None:
        """As `compile_step`. None where the process came to nothing, which is no fault of the model's.

        Raises: as `compile_step`.
        """
        from ozone.compilation.artifacts import decode
        from ozone.compilation.failures import ForeignOpError
        from ozone.compilation.handover import dumps
        from ozone.compilation.pass_manager import log_reports
        from ozone.errors import CompileError

        try:
            with phase("compile"):
                content = dumps((step, inputs, config, capacity))
                answer, _ = self._process.communicate(content, timeout=_PATIENCE_SECONDS)
                header, _ = unpack(answer)
                ranges = decode(answer, "", span_bytes) if "ranges" in header else None
        except Exception as error:  # an odd model, a killed process: this one can do the same
            logger.info("compiling here, since the process for it has failed: %s", error)
            return None
        if (foreign := header.get("foreign")) is not None:
            raise ForeignOpError(*foreign)
        if (problem := header.get("problem")) is not None:
            raise CompileError(str(problem))
        for made in ranges or ():
            log_reports(made.passes)
        return ranges


def start_if_it_pays(config: OzoneConfig, *, native: bool, cores: int) -> CompileProcess | None:
    """A process, for a start that is probably going to compile.

    None where it would not help: on one core, where nothing is traced or kept, where the trace is looked at.
    """
    compilation = config.compilation
    if cores < 2 or not sys.executable or not runs_programs(compilation, native=native):
        return None
    if compilation.debug_dump_path is not None or cache_disabled() or compiled_before(config):
        return None
    try:
        return CompileProcess()
    except OSError as error:
        logger.debug("no process to compile in: %s", error)
        return None
