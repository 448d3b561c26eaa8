"""What a chat template may use up: time, and the size of all it builds, known before it is built."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from itertools import chain
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined

MAX_SECONDS = 5.0  # a template takes milliseconds
MAX_CHARACTERS = 64 << 20  # of all strings and lists made on the way
MAX_DEPTH = 200  # of lists in lists
POINTER = 8  # what a place in a list costs, in characters
OBJECT = 64  # what a small new object in a list costs

_CONTAINERS = (list, tuple, dict, KeysView, ValuesView, ItemsView)


class Budget(threading.local):
    """What the rendering in this thread may still use up."""

    deadline = 0.0
    characters = 0

    def restart(self) -> None:
        self.deadline = time.monotonic() + MAX_SECONDS
        self.characters = MAX_CHARACTERS

    def tick(self) -> None:
        if time.monotonic() > self.deadline:
            raise SecurityError(f"it runs for more than {MAX_SECONDS:.0f} s")

    def charge(self, characters: int) -> None:
        self.characters -= characters
        if self.characters < 0:
            raise SecurityError(f"it builds more than {MAX_CHARACTERS} characters")

    def result(self, value: Any) -> Any:
        """A result that is no larger than what it was made of; an iterator becomes a list."""
        if isinstance(value, str):
            self.charge(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.charge(POINTER * len(value))
        elif isinstance(value, Iterator):
            return self.collect(value)
        return value

    def collect(self, items: Iterable[Any]) -> list[Any]:
        """The items as a list."""
        if isinstance(items, list):
            return items
        if isinstance(items, str):
            self.charge(OBJECT * len(items))
            return list(items)
        found = []
        for item in items:
            self.tick()
            self.charge(OBJECT)
            found.append(item)
        return found

    def text(self, value: Any) -> str:
        """``str(value)`` of plain values, lists and dicts; SecurityError for anything else."""
        if not isinstance(value, str):
            self.walk(value, quoted_length)
        return str(value)

    def comparable(self, value: Any) -> Any:
        """The value, once it is known to take bearable time to be hashed or compared.

        A list that holds one list twice, which does the same, and so on, is small and takes forever.
        """
        if isinstance(value, _CONTAINERS):
            self.walk(value, lambda text: len(text) >> 6, each=1, any_type=True)
        return value

    def walk(
        self,
        value: Any,
        cost_of: Callable[[str], int],
        *,
        each: int = POINTER,
        level: int = 0,
        any_type: bool = False,
    ) -> int:
        """Charge for all that a value holds, as often as it holds it; returns the charge.

        Args:
            cost_of: what a string costs.
            each: what any value costs beside that, and `level` for each list that it lies in.
            any_type: take other types than templates can print.
        """
        total = 0
        levels: list[Iterator[Any]] = [iter((value,))]
        while levels:
            if len(levels) > MAX_DEPTH:
                raise SecurityError(f"it nests lists more than {MAX_DEPTH} deep")
            for item in levels[-1]:
                self.tick()
                inner: Iterator[Any] | None = None
                cost = each + level * len(levels)
                match item:
                    case str():
                        cost += cost_of(item)
                    case dict():
                        inner = chain.from_iterable(item.items())
                    case list() | tuple() | KeysView() | ValuesView() | ItemsView():
                        inner = iter(item)
                    case int():
                        cost += item.bit_length() // 3
                    case None | float() | range() | Undefined():
                        cost += 4 * each
                    case _ if not any_type:
                        raise SecurityError(f"it prints a {type(item).__name__}")
                self.charge(cost)
                total += cost
                if inner is not None:
                    levels.append(inner)
                    break
            else:
                levels.pop()
        return total


def quoted_length(text: str) -> int:
    """The most characters that a string can have inside a printed list or JSON."""
    plain = text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable()
    return len(text) * (2 if plain else 12)
