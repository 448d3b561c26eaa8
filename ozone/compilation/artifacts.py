"""Compiled programs that survive their process: loaded where an earlier start made the same, else compiled.

Nothing that goes wrong here stops a start: it compiles then, and says why in one warning.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ozone.compilation.artifact_file import DamagedArtifactError, pack, unpack
from ozone.compilation.artifact_key import key_of, key_parts
from ozone.compilation.artifact_store import ArtifactStore, UnusableStoreError, reason
from ozone.compilation.by_tokens import ByTokens
from ozone.compilation.compiler import Phase, RangeProgram, compile_step, unnamed
from ozone.compilation.described import UndescribableError
from ozone.compilation.lowering import Capacity, Lowered, LoweredPiece, Result
from ozone.compilation.observer import Observer
from ozone.compilation.step import KV_CACHE_PREFIX, Step, StepInputs
from ozone.config.schema import CompilationConfig
from ozone.native import library

logger = logging.getLogger("ozone")

# Longer than a model takes to compile: whoever waited that long compiles too.
_PATIENCE_SECONDS = 120.0
_NOT_CACHED = "compiled programs are not cached: %s"
_RESULT_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16)}


@dataclass(frozen=True)
class Programs:
    """What a step runs, and where it is from.

    Attributes:
        loaded: whether an earlier start made it.
        kept: the file that it was loaded from or saved in; None where it is in none.
    """

    ranges: Sequence[RangeProgram]
    loaded: bool = False
    kept: Path | None = None


@dataclass(frozen=True)
class ProgramCache:
    """Programs of earlier starts under `directory`. `label` is kept with new ones, for people to read."""

    directory: Path
    label: Mapping[str, Any]

    @staticmethod
    def disabled() -> bool:
        """Whether ``OZONE_DISABLE_COMPILE_CACHE`` asks for no cache."""
        return os.environ.get("OZONE_DISABLE_COMPILE_CACHE", "0") not in ("", "0")

    def load_or_compile(
        self,
        step: Step,
        inputs: StepInputs,
        config: CompilationConfig,
        capacity: Capacity,
        phase: Phase = unnamed,
        observer: Observer | None = None,
    ) -> Programs:
        """As `compile_step`, or what it returned in an earlier start.

        Of several starts at once, one compiles and the others wait for it. `phase` times what takes long,
        `observer` is told what is made.
        """
        with contextlib.ExitStack() as held:
            with phase("load programs"):
                attempt = self._prepare(held, step, inputs, config, capacity)
                if attempt is not None and (found := attempt.load()) is not None:
                    return found
            if attempt is None:
                return Programs(compile_step(step, inputs, config, capacity, phase, observer))
            with phase("wait for compilation"):
                attempt.lock(held)
            # Whoever had the lock may have made it meanwhile.
            if (found := attempt.load(warn=True)) is not None:
                return found
            logger.info("compiling; later starts with these settings load what is made now")
            ranges = compile_step(step, inputs, config, capacity, phase, observer)
            with phase("save programs"):
                return attempt.save(self.label, ranges)

    def _prepare(
        self,
        held: contextlib.ExitStack,
        step: Step,
        inputs: StepInputs,
        config: CompilationConfig,
        capacity: Capacity,
    ) -> _Attempt | None:
        """None, with a warning, where nothing can be kept."""
        try:
            store = held.enter_context(ArtifactStore(self.directory))
            return _Attempt(store, step, inputs, config, capacity)
        except (UndescribableError, UnusableStoreError) as error:
            logger.warning(_NOT_CACHED, error)
            return None


class _Attempt:
    """The artifact that one start wants."""

    def __init__(
        self,
        store: ArtifactStore,
        step: Step,
        inputs: StepInputs,
        config: CompilationConfig,
        capacity: Capacity,
    ) -> None:
        self._store = store
        self._parts = key_parts(step, inputs, config, capacity)
        self._key = key_of(self._parts)
        self._file = store.file(self._key)
        tensors = {**dict(step.constants()), **inputs._asdict()}
        self._span_bytes = {name: x.untyped_storage().nbytes() for name, x in tensors.items()}
        # A dump shows how programs came to be, so they have to come to be.
        self._wanted = config.debug_dump_path is None

    def load(self, *, warn: bool = False) -> Programs | None:
        """None where there is nothing that can be used; `warn` says so where there should be something."""
        try:
            content = self._store.read(self._key) if self._wanted else None
            if content is None:
                return None
            return Programs(decode(content, self._key, self._span_bytes), loaded=True, kept=self._file)
        except (OSError, DamagedArtifactError) as error:
            if warn:
                logger.warning("%s is compiled anew, it cannot be used: %s", self._file, reason(error))
            return None

    def lock(self, held: contextlib.ExitStack) -> None:
        """Let no other start compile the same meanwhile, where that is possible."""
        self._store.lock_if_possible(held, self._key, _PATIENCE_SECONDS, "compiled the same")

    def save(self, label: Mapping[str, Any], ranges: Sequence[RangeProgram]) -> Programs:
        """Keep what was compiled; where that fails, it runs all the same."""
        header = {"label": {**label, "made": time.time()}, "key_parts": self._parts}
        try:
            self._store.write(self._key, encode(header, self._key, ranges, self._span_bytes))
        except OSError as error:
            logger.warning(_NOT_CACHED, f"{self._store.path}: {reason(error)}")
            return Programs(ranges)
        return Programs(ranges, kept=self._file)


def encode(
    header: Mapping[str, Any], key: str, ranges: Sequence[RangeProgram], span_bytes: Mapping[str, int]
) -> bytes:
    """Programs as the bytes of an artifact."""
    described = [
        {
            "first": made.first,
            "last": made.last,
            "memory": made.lowered.memory,
            "memory_bytes": [span_bytes[name] for name in made.lowered.memory],
            "pool_bytes": made.lowered.pool_bytes,
            "result": {
                "offset": made.lowered.result.offset,
                "columns": made.lowered.result.columns,
                "dtype": str(made.lowered.result.dtype),
            },
            "splits": [piece.splits for piece in made.lowered.pieces],
            "launches": [len(piece.program) for piece in made.lowered.pieces],
        }
        for made in ranges
    ]
    blobs = [piece.program.words for made in ranges for piece in made.lowered.pieces]
    return pack({**header, "key": key, "ranges": described}, blobs)


def decode(content: bytes, key: str, span_bytes: Mapping[str, int]) -> list[RangeProgram]:
    """Programs out of the bytes of the artifact of `key`.

    Raises: `DamagedArtifactError` where they are not as they were written, are those of another key, need
        other memory than `span_bytes` says there is, or kernels that this library does not have.
    """
    header, blobs = unpack(content)
    try:
        if header["key"] != key:
            raise DamagedArtifactError("it is another one's")
        words = iter(blobs)
        ranges = [_range(described, words, span_bytes) for described in header["ranges"]]
        ByTokens((made.first, made.last, made) for made in ranges)
        if next(words, None) is not None:
            raise DamagedArtifactError("it has more programs than ranges")
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise DamagedArtifactError(f"{type(error).__name__}: {error}") from None
    return ranges


def _range(described: Any, words: Any, span_bytes: Mapping[str, int]) -> RangeProgram:
    native = library()
    assert native is not None, "programs run where the native library is"
    memory, result = tuple(described["memory"]), described["result"]
    for name, size in zip(memory, described["memory_bytes"], strict=True):
        if name not in span_bytes:
            raise DamagedArtifactError(f"it needs {name}, which is not there")
        if not name.startswith(KV_CACHE_PREFIX) and span_bytes[name] != size:
            raise DamagedArtifactError(f"{name} has {span_bytes[name]} bytes instead of {size}")
    first, last, pool_bytes = int(described["first"]), int(described["last"]), int(described["pool_bytes"])
    placed = Result(int(result["offset"]), int(result["columns"]), _RESULT_DTYPES[result["dtype"]])
    end = placed.offset + last * placed.columns * placed.dtype.itemsize
    if not (0 < first <= last and 0 <= placed.offset < end <= pool_bytes):
        raise DamagedArtifactError("its result does not lie in its pool")
    pieces = [
        LoweredPiece(native.Program.from_words(next(words)), bool(splits)) for splits in described["splits"]
    ]
    return RangeProgram(first, last, Lowered(tuple(pieces), memory, pool_bytes, placed))
