"""Who looks on while a model is compiled: it is told what is made as soon as it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx

    from ozone.compilation.lowering import Lowered
    from ozone.compilation.pass_manager import PassReport
    from ozone.compilation.pieces import Piece
    from ozone.compilation.traced import Traced
    from ozone.compilation.tuning.tuner import Tuning


# Called with begin and end of bytes of a planned pool, and whether they are taken rather than given back.
Changed = Callable[[int, int, bool], None]


def unwatched(begin: int, end: int, taken: bool) -> None:
    """A `Changed` that does not care."""


class Observer:
    """This one does not care. What it is given goes on changing: whoever wants to keep it makes a copy."""

    def noted(self, text: str) -> None:
        """What comes otherwise than the settings ask, in a line."""

    def tuned(self, tuning: Tuning) -> None:
        """These ways of kernels are taken."""

    def traced(self, traced: Traced) -> None:
        """The model is a graph."""

    def begins(self, first: int, last: int, traced: Traced) -> None:
        """This graph is going to be for steps of `first` to `last` tokens; all that follows is about it."""

    def rewrote(self, graph: fx.Graph, report: PassReport | None) -> None:
        """A pass has run; None: what nobody needs any more is gone."""

    def split(self, pieces: Sequence[Piece]) -> None:
        """The graph is these pieces from now on."""

    def lowers(self) -> Changed:
        """Its pieces become programs, from the first one on; again, where the sizes of one time did not fit.

        Returns: what to tell of the planned pool.
        """
        return unwatched

    def lowered_node(self, node: fx.Node, launches: int) -> None:
        """All up to this node of a piece is so many launches."""

    def lowered(self, lowered: Lowered) -> None:
        """All of them are programs."""

    def captured(self, tokens: int, lowered: Lowered) -> None:
        """A step of up to `tokens` tokens, which nobody traced, is a program."""

    def generates(self, place: int, backend: str) -> AbstractContextManager[None]:  # noqa: ARG002
        """`backend` compiles within this the piece at `place`, and those that equal it."""
        return nullcontext()

    def generated(self, source: str) -> None:
        """This is the C++ of what is compiled within `generates`."""

    def watched(self, backend: str, options: dict[str, Any] | None) -> str | Callable[..., Any]:  # noqa: ARG002
        """What `torch.compile` takes as its backend in place of this one with these options."""
        return backend
