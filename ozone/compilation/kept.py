"""What one start makes of a model and later ones load: an artifact under a key of all that decides it.

Nothing that goes wrong here stops a start: it makes the thing then, and says why in one warning.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ozone.compilation.artifact_file import DamagedArtifactError
from ozone.compilation.artifact_key import key_of
from ozone.compilation.artifact_store import ArtifactStore, UnusableStoreError, reason
from ozone.compilation.compiler import Phase
from ozone.compilation.described import UndescribableError

logger = logging.getLogger("ozone")

T = TypeVar("T")

# Longer than a model takes to compile: whoever waited that long compiles too.
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Kept(Generic[T]):
    """How something is kept.

    Attributes:
        what: its name, for warnings.
        parts: all that decides it, as JSON has it; may raise `UndescribableError`.
        decode: makes it of the bytes of an artifact and its key. None where something that it needs is no
            longer kept. Raises `DamagedArtifactError`.
        encode: the bytes of an artifact: of a header to keep, the key, and the thing.
        patience: for how many seconds to wait for another start that makes it; None: `PATIENCE_SECONDS`.
    """

    what: str
    parts: Callable[[], dict[str, Any]]
    decode: Callable[[bytes, str], T | None]
    encode: Callable[[Mapping[str, Any], str, T], bytes]
    patience: float | None = None


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """A thing, whether an earlier start made it, and the file that it is kept in, if any."""

    made: T
    loaded: bool = False
    kept: Path | None = None


def load_or_make(
    how: Kept[T],
    *,
    make: Callable[[], T],
    open_store: Callable[[], ArtifactStore],
    label: Mapping[str, Any],
    load: bool,
    phase: Phase,
) -> Outcome[T]:
    """What an earlier start kept, else what `make` returns, which is kept.

    Of several starts at once, one makes it and the others wait.

    Args:
        label: is kept too, for people to read.
        load: whether what is kept may be used.
    """
    with contextlib.ExitStack() as held:
        with phase("load programs"):
            attempt = _prepare(held, how, open_store, load)
            if attempt is not None and (found := attempt.load()) is not None:
                return found
        if attempt is None:
            return Outcome(make())
        with phase("wait for compilation"):
            attempt.lock(held)
        # Whoever had the lock may have made it meanwhile.
        if (found := attempt.load(warn=True)) is not None:
            return found
        logger.info("compiling; later starts with these settings load what is made now")
        made = make()
        with phase("save programs"):
            return attempt.save(label, made)


def _prepare(
    held: contextlib.ExitStack, how: Kept[T], open_store: Callable[[], ArtifactStore], load: bool
) -> _Attempt[T] | None:
    """None, with a warning, where nothing can be kept."""
    try:
        return _Attempt(held.enter_context(open_store()), how, load)
    except (UndescribableError, UnusableStoreError) as error:
        _not_cached(how, error)
        return None


def _not_cached(how: Kept[T], why: object) -> None:
    logger.warning("%s are not cached: %s", how.what, why)


class _Attempt(Generic[T]):
    """The artifact that one start wants."""

    def __init__(self, store: ArtifactStore, how: Kept[T], load: bool) -> None:
        self._store, self._how, self._wanted = store, how, load
        self._parts = how.parts()
        self._key = key_of(self._parts)
        self._file = store.file(self._key)

    def load(self, *, warn: bool = False) -> Outcome[T] | None:
        """None where there is nothing that can be used; `warn` says so where there should be something."""
        try:
            content = self._store.read(self._key) if self._wanted else None
            made = None if content is None else self._how.decode(content, self._key)
        except (OSError, DamagedArtifactError) as error:
            if warn:
                logger.warning("%s is compiled anew, it cannot be used: %s", self._file, reason(error))
            return None
        return None if made is None else Outcome(made, loaded=True, kept=self._file)

    def lock(self, held: contextlib.ExitStack) -> None:
        """Let no other start make the same meanwhile, where that is possible."""
        patience = PATIENCE_SECONDS if self._how.patience is None else self._how.patience
        self._store.lock_if_possible(held, self._key, patience, "compiled the same")

    def save(self, label: Mapping[str, Any], made: T) -> Outcome[T]:
        """Keep what was made; where that fails, it runs all the same."""
        header = {"label": {**label, "made": time.time()}, "key_parts": self._parts}
        try:
            self._store.write(self._key, self._how.encode(header, self._key, made))
        except UndescribableError as error:
            _not_cached(self._how, error)
            return Outcome(made)
        except OSError as error:
            _not_cached(self._how, f"{self._store.path}: {reason(error)}")
            return Outcome(made)
        return Outcome(made, kept=self._file)
