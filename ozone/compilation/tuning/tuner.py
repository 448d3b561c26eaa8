"""Tuning at start-up: the choices that are kept for this machine and model, else measured ones.

Nothing that goes wrong here stops a start: kernels take their default ways then, and one warning says why.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ozone.compilation.artifact_file import DamagedArtifactError
from ozone.compilation.artifact_store import ArtifactStore, UnusableStoreError, cache_disabled, reason
from ozone.compilation.compiler import Phase
from ozone.compilation.tuning import keeping
from ozone.compilation.tuning.choosing import spans
from ozone.compilation.tuning.keeping import Kept, ShapeChoice
from ozone.compilation.tuning.measuring import MOST_HEAD_ROWS, ROWS, Measured, measure, wanted_rows
from ozone.compilation.tuning.products import Products, Shape, products_of, record

if TYPE_CHECKING:
    from ozone.models.causal_lm import CausalLM

logger = logging.getLogger("ozone")

# How long measuring may take, about: the launches of larger models are longer, and measured less often.
SECONDS = 0.5
# Longer than measuring takes: whoever waited that long measures too.
_PATIENCE_SECONDS = 10.0

# Shows a bar of row counts while it is entered; yields a callback (done, total).
Progress = Callable[[], AbstractContextManager[Callable[[int, int], None]]]


@dataclass(frozen=True)
class Tuning:
    """What kernels of a model take which way, and where that is from.

    Attributes:
        choices: for each shape of its products, in the order of a step.
        loaded: whether an earlier start measured them.
        busy: why they are good for this start only: the machine was not this process's own meanwhile.
        tried: there are none, since the machine was busy when an earlier start measured: so many seconds ago.
        kept: the file that they are in.
    """

    choices: Sequence[ShapeChoice]
    loaded: bool = False
    busy: str | None = None
    tried: float | None = None
    kept: Path | None = None

    @property
    def origin(self) -> str:
        """Where the choices are from, in a phrase."""
        if self.tried is not None:
            minutes, again = self.tried / 60, keeping.BUSY_SECONDS / 60
            return (
                f"the default: {minutes:.0f} minutes ago the machine was too busy to measure; a start tries "
                f"again {again - minutes:.0f} minutes from now"
            )
        if self.busy is not None:
            return f"measured for this start only, the machine was busy: {self.busy}"
        return "measured by an earlier start" if self.loaded else "measured by this start"

    def table(self) -> keeping.Table:
        """The choices as the native library takes them."""
        return keeping.table_of(self.choices)


@dataclass(frozen=True)
class Tuner:
    """Chooses for one model.

    Attributes:
        directory: the cache directory.
        name: of the model, for people.
        most_tokens, most_requests: of a step.
    """

    directory: Path
    name: str
    num_threads: int
    most_tokens: int
    most_requests: int

    def tune(self, model: CausalLM, phase: Phase, progress: Progress) -> Tuning:
        """The choices for `model`, measured where none are known. Of several starts at once, one measures."""
        fingerprint = self._fingerprint(model)
        with contextlib.ExitStack() as held:
            with phase("load tuning"):
                attempt = self._open(held)
                if attempt is not None and (found := attempt.load(fingerprint)) is not None:
                    return found
            if attempt is not None:
                with phase("wait for tuning"):
                    attempt.lock(held)
                # Whoever had the lock may have measured meanwhile.
                if (found := attempt.load(fingerprint, warn=True)) is not None:
                    return found
            with phase("tune"), progress() as report:
                choices, busy = self._measure(model, report)
            if busy is not None:
                logger.info("tuning is for this start only, the machine is busy: %s", busy)
            if attempt is None:
                return Tuning(choices, busy=busy)
            if busy is not None:
                attempt.save_busy(fingerprint)
                return Tuning(choices, busy=busy)
            return attempt.save(fingerprint, self.name, choices)

    def _fingerprint(self, model: CausalLM) -> str:
        """Two models of one fingerprint have the same products.

        Not quite: weights of two types may be as large. What differs then is not tuned, no more.
        """
        # Of larger steps no more is measured.
        described: list[Any] = [min(self.most_tokens, ROWS[-1]), min(self.most_requests, MOST_HEAD_ROWS)]
        for product in products_of(model):
            tensors = [*product.module.parameters(), *product.module.buffers()]
            shapes = [[list(tensor.shape), str(tensor.dtype)] for tensor in tensors]
            described.append([type(product.module).__qualname__, product.columns, str(product.dtype), shapes])
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def _measure(
        self, model: CausalLM, report: Callable[[int, int], None]
    ) -> tuple[list[ShapeChoice], str | None]:
        products = record(model, products_of(model))
        wanted = {
            shape: wanted_rows(shape, self.most_tokens, self.most_requests)
            for shape in dict.fromkeys(products.shapes.values())
        }

        def few(each: int) -> Products:
            return record(model, products.few(each))

        measured = measure(few, wanted, SECONDS, self.num_threads, report) if wanted else Measured()
        choices = [_choice(shape, measured) for shape in wanted]
        return choices, measured.busy

    def _open(self, held: contextlib.ExitStack) -> _Attempt | None:
        """None, with a warning, where nothing can be kept."""
        if cache_disabled():
            return None
        try:
            store = held.enter_context(keeping.open_store(self.directory))
        except UnusableStoreError as error:
            logger.warning("tuning is not kept: %s", error)
            return None
        return _Attempt(store, keeping.machine_parts(self.num_threads))


def _choice(shape: Shape, measured: Measured) -> ShapeChoice:
    figures = tuple(measured.figures[shape])
    return ShapeChoice(
        shape.key, shape.kernel, shape.label, spans(figures, complete=measured.complete), figures
    )


class _Attempt:
    """The file of this machine."""

    def __init__(self, store: ArtifactStore, parts: dict[str, Any]) -> None:
        self._store, self._parts = store, parts
        self._key = keeping.key_of(parts)
        self._file = store.file(self._key)

    def _read(self) -> Kept:
        content = self._store.read(self._key)
        return keeping.NOTHING if content is None else keeping.decode(content, self._parts)

    def load(self, fingerprint: str, *, warn: bool = False) -> Tuning | None:
        """None where a model is not known; `warn` says so where the file cannot be used."""
        try:
            kept = self._read()
        except (OSError, DamagedArtifactError) as error:
            if warn:
                logger.warning("%s is measured anew, it cannot be used: %s", self._file, reason(error))
            return None
        choices = kept.of_model(fingerprint)
        if choices is not None:
            return Tuning(choices, loaded=True, kept=self._file)
        tried = kept.busy_for(fingerprint, time.time())
        return None if tried is None else Tuning((), tried=tried, kept=self._file)

    def lock(self, held: contextlib.ExitStack) -> None:
        """Let no other start measure meanwhile, where that is possible."""
        self._store.lock_if_possible(held, self._key, _PATIENCE_SECONDS, "tuned")

    def save(self, fingerprint: str, name: str, choices: Sequence[ShapeChoice]) -> Tuning:
        """Keep what was measured, beside what is there; where that fails, it is used all the same."""
        kept = self._write(lambda kept: kept.with_model(fingerprint, name, choices))
        return Tuning(choices, kept=self._file if kept else None)

    def save_busy(self, fingerprint: str) -> None:
        """Keep that measuring was in vain, so that not every start of the next hour pays for it."""
        self._write(lambda kept: kept.with_busy(fingerprint, time.time()))

    def _write(self, change: Callable[[Kept], Kept]) -> bool:
        """Whether it could be written; a warning says why not."""
        try:
            kept = self._read()
        except (OSError, DamagedArtifactError):
            kept = keeping.NOTHING  # `load` has warned
        try:
            self._store.write(self._key, keeping.encode(self._parts, change(kept)))
        except OSError as error:
            logger.warning("tuning is not kept: %s: %s", self._store.path, reason(error))
            return False
        return True
