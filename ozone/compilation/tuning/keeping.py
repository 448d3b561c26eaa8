"""Choices of ways on disk: a file for each CPU model, instruction set, number of threads and build. No torch.

What is read is checked: whoever cut or changed a file gets the default, and one warning.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ozone.compilation.artifact_file import DamagedArtifactError, pack, unpack
from ozone.compilation.artifact_store import ArtifactStore
from ozone.compilation.tuning.choosing import DEFAULT, Figure, Span
from ozone.native import library
from ozone.platforms import cpu
from ozone.version import __version__

ROOM = "tuning"
# A file holds the choices of many models; those that were measured first go first.
MOST_SHAPES = 1024
_MOST_BUSY = 64
# For so long after a start has found the machine busy, others do not try again.
BUSY_SECONDS = 3600.0
_MAX_BYTES = 8 << 20


@dataclass(frozen=True)
class ShapeChoice:
    """The choices for one shape.

    Attributes:
        shape: what the native library knows it by.
        kernel: the kernel's name.
        label: rows, columns and the like, for people.
    """

    shape: int
    kernel: str
    label: str
    spans: tuple[Span, ...]
    figures: tuple[Figure, ...]


def open_store(cache_dir: Path, *, create: bool = True) -> ArtifactStore:
    """The files under a cache directory. Raises: `UnusableStoreError`."""
    return ArtifactStore(cache_dir, room=ROOM, create=create, max_bytes=_MAX_BYTES)


def machine_parts(num_threads: int) -> dict[str, Any]:
    """All that choices depend on but the shapes themselves."""
    native = library()
    assert native is not None, "ways are those of the native library"
    status = Path(str(native.__file__)).stat()
    kernels = [[k.name, k.id, k.version, k.ways] for k in native.kernels().values()]
    return {
        "cpu_model": cpu.detect().cpu_model,
        "isa": native.isa(),
        "threads": num_threads,
        "version": __version__,
        # A library that was built anew has other times, whatever its version says.
        "library": [status.st_size, status.st_mtime_ns, *native.build_info().values()],
        "kernels": hashlib.sha256(json.dumps(kernels).encode()).hexdigest(),
    }


def key_of(parts: Mapping[str, Any]) -> str:
    """The key: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Kept:
    """What is kept for a machine.

    Attributes:
        choices: by shape.
        models: the shapes of each model that was tuned, by its fingerprint.
        names: what people call those models.
        busy: when the machine was found busy while a model was measured, in seconds since the epoch, by its
            fingerprint. Nothing that was measured then is kept.
    """

    choices: Mapping[int, ShapeChoice]
    models: Mapping[str, Sequence[int]]
    names: Mapping[str, str]
    busy: Mapping[str, float] = field(default_factory=dict)

    def busy_for(self, fingerprint: str, now: float) -> float | None:
        """How many seconds ago measuring a model was in vain; None where it should be tried (again)."""
        age = now - self.busy.get(fingerprint, -math.inf)
        return age if 0 <= age < BUSY_SECONDS else None

    def with_busy(self, fingerprint: str, now: float) -> Kept:
        """This, with one more model that could not be measured."""
        others = {key: at for key, at in self.busy.items() if key != fingerprint}
        return replace(self, busy=dict([*others.items(), (fingerprint, now)][-_MOST_BUSY:]))

    def of_model(self, fingerprint: str) -> list[ShapeChoice] | None:
        """The choices for a model, None where one is missing or the model is unknown."""
        shapes = self.models.get(fingerprint)
        if shapes is None or not all(shape in self.choices for shape in shapes):
            return None
        return [self.choices[shape] for shape in shapes]

    def with_model(self, fingerprint: str, name: str, choices: Sequence[ShapeChoice]) -> Kept:
        """This, with the choices of one more model; the oldest are forgotten where there are too many."""
        shapes = [choice.shape for choice in choices]
        all_choices = {shape: choice for shape, choice in self.choices.items() if shape not in shapes}
        all_choices |= {choice.shape: choice for choice in choices}
        kept = dict(list(all_choices.items())[-MOST_SHAPES:])
        models = {**self.models, fingerprint: shapes}
        models = {key: known for key, known in models.items() if all(shape in kept for shape in known)}
        names = {key: text for key, text in {**self.names, fingerprint: name}.items() if key in models}
        busy = {key: at for key, at in self.busy.items() if key != fingerprint}
        return Kept(kept, models, names, busy)


NOTHING = Kept({}, {}, {})


def encode(parts: Mapping[str, Any], kept: Kept) -> bytes:
    """Choices as the bytes of a file."""
    shapes = [
        {
            "shape": choice.shape,
            "kernel": choice.kernel,
            "label": choice.label,
            "spans": [[span.last, span.way] for span in choice.spans],
            "figures": [[made.rows, dict(made.seconds), made.way] for made in choice.figures],
        }
        for choice in kept.choices.values()
    ]
    models = {key: {"name": kept.names[key], "shapes": list(shapes)} for key, shapes in kept.models.items()}
    header = {"key_parts": parts, "made": time.time(), "shapes": shapes, "models": models}
    return pack({**header, "busy": dict(kept.busy)}, [])


def decode(content: bytes, parts: Mapping[str, Any]) -> Kept:
    """What `encode` was given.

    Raises: `DamagedArtifactError` for what `encode` never gave, for another machine's, and for ways that the
        kernels do not have.
    """
    header, _ = unpack(content)
    try:
        if header["key_parts"] != json.loads(json.dumps(parts)):
            raise DamagedArtifactError("it is another machine's or build's")
        choices = [_choice(**described) for described in header["shapes"]]
        models = {key: [int(shape) for shape in known["shapes"]] for key, known in header["models"].items()}
        names = {key: str(known["name"]) for key, known in header["models"].items()}
        busy = {key: float(at) for key, at in header["busy"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration):
        raise DamagedArtifactError("it does not say what it should") from None
    return Kept({choice.shape: choice for choice in choices}, models, names, busy)


def _choice(*, shape: int, kernel: str, label: str, spans: list[Any], figures: list[Any]) -> ShapeChoice:
    native = library()
    assert native is not None
    ways = native.kernels()[kernel].ways
    found = tuple(Span(last, way) for last, way in spans)
    ends = [0, *(span.last for span in found[:-1])]
    if not all(isinstance(text, str) for text in (kernel, label)) or not 0 <= shape < 1 << 64:
        raise ValueError
    if found[-1].last is not None or any(b <= a for a, b in itertools.pairwise(ends)):  # type: ignore[operator]
        raise ValueError
    made = tuple(Figure(rows, seconds, way) for rows, seconds, way in figures)
    if not {span.way for span in found} | {one.way for one in made} <= set(ways):
        raise ValueError
    if not all(math.isfinite(s) for one in made for s in one.seconds.values()):
        raise ValueError
    return ShapeChoice(shape, kernel, label, found, made)


# (shape, [(last row count, way), ...]) for each shape, as the native library takes it.
Table = list[tuple[int, list[tuple[int, int]]]]


def table_of(choices: Iterable[ShapeChoice]) -> Table:
    """What the native library is given, in the thread that runs the model, to take these ways."""
    native = library()
    assert native is not None, "ways are those of the native library"
    kernels, no_end = native.kernels(), native.NO_END
    return [
        (
            choice.shape,
            [
                (no_end if span.last is None else span.last, kernels[choice.kernel].ways.index(span.way))
                for span in choice.spans
            ],
        )
        for choice in choices
        if any(span.way != DEFAULT for span in choice.spans)
    ]


def read(cache_dir: Path, num_threads: int) -> tuple[Path, Kept] | None:
    """What is kept for this machine under a cache directory, and where; None where nothing is.

    Raises: `UnusableStoreError`, `DamagedArtifactError`, `OSError`: what is there cannot be used.
    """
    if library() is None or not (cache_dir / ROOM).exists():
        return None
    parts = machine_parts(num_threads)
    with open_store(cache_dir, create=False) as store:
        content = store.read(key_of(parts), use=False)
        return None if content is None else (store.file(key_of(parts)), decode(content, parts))
