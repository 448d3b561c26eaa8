"""Failures of the tokenizer library as errors of ours.

The library raises plain `Exception` for a file, or a text, that it cannot use. Where it did not foresee
a mistake it panics: that is a class without a public name, which is no `Exception`, and would pass every
handler.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from ozone.errors import OzoneError, clipped


def is_panic(error: BaseException) -> bool:
    """Whether the library has panicked."""
    return type(error).__name__ == "PanicException"


@contextlib.contextmanager
def panics_as(error: Callable[[str], OzoneError]) -> Iterator[None]:
    """Raise `error`, given what the library says, where it panics or cannot do what it is asked."""
    try:
        yield
    except BaseException as failure:
        if not is_panic(failure) and type(failure) is not Exception:
            raise
        raise error(clipped(str(failure))) from None
