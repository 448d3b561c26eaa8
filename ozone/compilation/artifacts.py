"""Compiled programs that survive their process: loaded where an earlier start made them, else compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ozone.compilation.artifact_file import DamagedArtifactError, pack, unpack
from ozone.compilation.artifact_key import key_parts
from ozone.compilation.artifact_store import ArtifactStore
from ozone.compilation.by_tokens import ByTokens
from ozone.compilation.compile_process import CompileProcess
from ozone.compilation.compiler import Phase, RangeProgram, compile_step, unnamed
from ozone.compilation.kept import Kept, load_or_make
from ozone.compilation.lowering import Capacity, Lowered, LoweredPiece, Result
from ozone.compilation.observer import Observer
from ozone.compilation.pass_manager import PassReport
from ozone.compilation.step import KV_CACHE_PREFIX, Step, StepInputs
from ozone.config.schema import CompilationConfig
from ozone.native import library

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

    def summary(self) -> list[dict[str, Any]]:
        """For each range what there is to run, as JSON has it."""
        return [
            {
                "first": made.first,
                "last": made.last,
                "pieces": len(made.lowered.pieces),
                "launches": sum(len(piece.program) for piece in made.lowered.pieces),
                "passes": [dataclasses.asdict(report) for report in made.passes],
            }
            for made in self.ranges
        ]


@dataclass(frozen=True)
class ProgramCache:
    """Programs of earlier starts under `directory`.

    Attributes:
        label: is kept with new ones, for people to read.
        process: where they are made; None: here.
    """

    directory: Path
    label: Mapping[str, Any]
    process: CompileProcess | None = None

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
        tensors = {**dict(step.constants()), **inputs._asdict()}
        span_bytes = {name: x.untyped_storage().nbytes() for name, x in tensors.items()}

        def make() -> Sequence[RangeProgram]:
            if self.process is not None:
                made = self.process.compile(step, inputs, config, capacity, span_bytes, phase)
                if made is not None:
                    return made
            return compile_step(step, inputs, config, capacity, phase, observer)

        found = load_or_make(
            Kept[Sequence[RangeProgram]](
                "compiled programs",
                parts=lambda: key_parts(step, inputs, config, capacity),
                decode=lambda content, key: decode(content, key, span_bytes),
                encode=lambda header, key, ranges: encode(header, key, ranges, span_bytes),
            ),
            make=make,
            open_store=lambda: ArtifactStore(self.directory),
            label=self.label,
            # A dump shows how programs came to be, so they have to come to be.
            load=config.debug_dump_path is None,
            phase=phase,
        )
        return Programs(found.made, found.loaded, found.kept)


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
            "passes": [dataclasses.asdict(report) for report in made.passes],
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
    reports = [PassReport(**report) for report in described["passes"]]
    return RangeProgram(first, last, Lowered(tuple(pieces), memory, pool_bytes, placed), reports)
