"""Compilations that fail: in one line, where that happened, and how to see more of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ozone.errors import CompileError, OzoneError, clipped


class ForeignOpError(CompileError):
    """An op that is not of the vocabulary: a program cannot have it."""

    def __init__(self, name: str, where: str = "") -> None:
        super().__init__(f"{name} is no op of the vocabulary" + (f" ({where})" if where else ""))
        self.name, self.where = name, where


@contextmanager
def naming(stage: str, dump_path: str | None) -> Iterator[None]:
    """Whatever goes wrong within is a `CompileError` that names `stage`, and inside it what the notes of the
    exception name: those who were at work add them (`BaseException.add_note`), the innermost first.

    Args:
        dump_path: `-cc.debug_dump_path`.
    """
    try:
        yield
    except OzoneError:
        raise
    except Exception as error:
        where = [stage, *reversed(getattr(error, "__notes__", ())), *_traced_line(error)]
        problem = clipped(f"{type(error).__name__}: {error}", 400)
        more = (
            f"what was made until then, and the traceback, are in {dump_path}/index.html"
            if dump_path is not None
            else "-cc.debug_dump_path=DIR writes what is made until then, and the traceback"
        )
        raise CompileError(
            f"{', '.join(where)}: {problem}; {more}; -cc.mode=NONE does not compile"
        ) from error


def _traced_line(error: Exception) -> list[str]:
    """Where in the model Dynamo was, if it was Dynamo that gave up."""
    frames = getattr(error, "real_stack", None)
    return [f"at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}"] if frames else []
