"""Generated steps that survive their process: calls under a key of their own, and the libraries they call.

Where both are kept, a start imports neither Dynamo nor Inductor and needs no C++ compiler.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ozone.compilation.artifact_file import DamagedArtifactError, pack, unpack
from ozone.compilation.artifact_key import key_parts
from ozone.compilation.artifact_store import ArtifactStore, UnusableStoreError
from ozone.compilation.by_tokens import ByTokens
from ozone.compilation.calls import Calls, from_json, to_json
from ozone.compilation.compiler import Phase, unnamed
from ozone.compilation.failures import naming
from ozone.compilation.generated import Generator, generated_pieces
from ozone.compilation.kept import Kept, Outcome, load_or_make
from ozone.compilation.libraries import ROOM, Libraries, check_compiler, library_parts
from ozone.compilation.lowering import Capacity
from ozone.compilation.observer import Observer
from ozone.compilation.pass_manager import PassReport, run_passes
from ozone.compilation.pieces import split
from ozone.compilation.step import Step, StepInputs
from ozone.compilation.trace import trace
from ozone.config.ranges import compiled_for
from ozone.config.schema import CompilationConfig, CompilationMode

logger = logging.getLogger("ozone")

STEPS_ROOM = "steps"
# What Inductor and a C++ compiler need for a model of a few kinds of pieces and ranges, twice over.
_PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class RangeCalls:
    """What runs for batches of `first` to `last` tokens. `passes`: what each pass has done to it."""

    first: int
    last: int
    calls: Calls
    passes: Sequence[PassReport]


@dataclass(frozen=True)
class GeneratedSteps:
    """What a step runs, and where it is from.

    Attributes:
        libraries: hold what the calls call; None where that is nothing.
        loaded: whether an earlier start made it.
        kept: the file that the calls were loaded from or saved in; None where they are in none.
    """

    ranges: Sequence[RangeCalls]
    libraries: Libraries | None
    loaded: bool = False
    kept: Path | None = None

    def summary(self) -> list[dict[str, Any]]:
        """For each range what there is to run, as JSON has it."""
        return [
            {
                "first": made.first,
                "last": made.last,
                "calls": len(made.calls.calls),
                "libraries": len(made.calls.libraries),
                "passes": [dataclasses.asdict(report) for report in made.passes],
            }
            for made in self.ranges
        ]


@dataclass(frozen=True)
class GeneratedCache:
    """Generated steps of earlier starts under `directory`, None: nothing is kept. `label` is for people."""

    directory: Path | None = None
    label: Mapping[str, Any] = field(default_factory=dict)

    def load_or_generate(
        self,
        step: Step,
        inputs: StepInputs,
        config: CompilationConfig,
        capacity: Capacity,
        num_threads: int,
        progress: Callable[[int, int], None],
        phase: Phase = unnamed,
        observer: Observer | None = None,
    ) -> GeneratedSteps:
        """Calls for every number of tokens up to `capacity.tokens`.

        Of several starts at once, one generates and the others wait. `progress` is called with (pieces done,
        pieces in all) of each range, `phase` times what takes long, `observer` is told what is made.

        Raises: `ConfigError` where there is no C++ compiler and one is needed, `CompileError` where the model
            cannot be compiled.
        """
        fresh = config.debug_dump_path is not None  # a dump shows how it all came to be
        with contextlib.ExitStack() as held:
            libraries = None
            if config.backend == "inductor":
                store = self._libraries_store(held)
                libraries = Libraries(config.inductor_compile_config, num_threads, store, load=not fresh)

            def generate() -> list[RangeCalls]:
                return _generate(step, inputs, config, capacity, libraries, progress, phase, observer)

            if self.directory is None:
                return GeneratedSteps(generate(), libraries)
            directory = self.directory
            outcome: Outcome[list[RangeCalls]] = load_or_make(
                Kept(
                    "generated steps",
                    parts=lambda: {
                        **key_parts(step, inputs, config, capacity),
                        "libraries": library_parts(config.inductor_compile_config, num_threads),
                    },
                    decode=lambda content, key: _decode(content, key, step, libraries),
                    encode=_encode,
                    patience=_PATIENCE_SECONDS,
                ),
                make=generate,
                open_store=lambda: ArtifactStore(directory, room=STEPS_ROOM),
                label=self.label,
                load=not fresh,
                phase=phase,
            )
        return GeneratedSteps(outcome.made, libraries, outcome.loaded, outcome.kept)

    def _libraries_store(self, held: contextlib.ExitStack) -> ArtifactStore | None:
        """None, with a warning where that is not asked for, where libraries cannot be kept."""
        if self.directory is None:
            return None
        try:
            return held.enter_context(ArtifactStore(self.directory, room=ROOM))
        except UnusableStoreError as error:
            logger.warning("generated code is not cached: %s", error)
            return None


def _generate(
    step: Step,
    inputs: StepInputs,
    config: CompilationConfig,
    capacity: Capacity,
    libraries: Libraries | None,
    progress: Callable[[int, int], None],
    phase: Phase,
    observer: Observer | None,
) -> list[RangeCalls]:
    if libraries is not None:
        check_compiler(f"-cc.mode={config.mode.name} with -cc.custom_ops={list(config.custom_ops)}")
    observer, path = observer or Observer(), config.debug_dump_path
    with phase("trace"), naming("the model cannot be traced", path):
        traced = trace(step, inputs)
    observer.traced(traced)
    generator = Generator(libraries)
    splitting_ops = config.splitting_ops if config.mode is CompilationMode.VLLM_COMPILE else ()
    ranges = []
    for first, last in compiled_for(config, capacity.tokens):
        which = f"for {first} to {last} tokens"
        # Where passes do not run, the settings have them off.
        with phase("rewrite"), naming(f"the model cannot be rewritten {which}", path):
            rewritten = copy.copy(traced)
            rewritten.module = copy.deepcopy(traced.module)
            observer.begins(first, last, rewritten)
            reports = run_passes(rewritten.module.graph, config, first, last, observer)
            pieces = split(rewritten.module.graph, splitting_ops)
            if libraries is not None:
                pieces = generated_pieces(pieces)
        observer.split(pieces)
        exactly = first if first == last else None
        with phase("generate code"), naming(f"{generator.backend} cannot compile the model {which}", path):
            calls = generator.calls(rewritten, pieces, step, progress, observer, exactly)
        ranges.append(RangeCalls(first, last, calls, reports))
    return ranges


def _encode(header: Mapping[str, Any], key: str, ranges: Sequence[RangeCalls]) -> bytes:
    described = [
        {
            "first": made.first,
            "last": made.last,
            "calls": to_json(made.calls),
            "passes": [dataclasses.asdict(report) for report in made.passes],
        }
        for made in ranges
    ]
    return pack({**header, "key": key, "ranges": described}, [])


def _decode(content: bytes, key: str, step: Step, libraries: Libraries | None) -> list[RangeCalls] | None:
    """None where a library cannot be used any more: whoever compiles it then says why.

    Raises: `DamagedArtifactError` for what was not written so.
    """
    header, _ = unpack(content)
    try:
        if header["key"] != key:
            raise DamagedArtifactError("it is another one's")
        ranges = [
            RangeCalls(
                int(described["first"]),
                int(described["last"]),
                from_json(described["calls"]),
                [PassReport(**report) for report in described["passes"]],
            )
            for described in header["ranges"]
        ]
        ByTokens((made.first, made.last, made) for made in ranges)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedArtifactError(f"{type(error).__name__}: {error}") from None
    constants = {name for name, _ in step.constants()}
    if missing := {name for made in ranges for name, _ in made.calls.constants} - constants:
        raise DamagedArtifactError(f"it needs {min(missing)}, which is not there")
    wanted = sorted(frozenset().union(*(made.calls.libraries for made in ranges)))
    if not wanted:
        return ranges
    if libraries is None:
        raise DamagedArtifactError("it calls libraries, and the settings need none")
    return ranges if all(libraries.find(name, warn=False) for name in wanted) else None
