"""Finding stop strings in text that arrives in pieces.

An Aho-Corasick automaton ("Efficient string matching", CACM 1975) over all stop strings: one step per
character however many there are, and its depth is just the text that must be held back.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """The automaton of a set of strings; never changes, so that completions share it.

    Nodes are numbered, 0 is the root; a node stands for the beginning of a stop string.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._fail = [0]
        self.depth = [0]
        self.found: list[str | None] = [None]
        for string in strings:
            self._insert(string)
        self._link()

    def step(self, node: int, character: str) -> int:
        """The longest beginning of a stop string that the text read so far ends with."""
        while True:
            following = self._next[node].get(character)
            if following is not None:
                return following
            if node == 0:
                return 0
            node = self._fail[node]

    def _insert(self, string: str) -> None:
        node = 0
        for character in string:
            following = self._next[node].get(character)
            if following is None:
                following = self._next[node][character] = len(self._next)
                self._next.append({})
                self._fail.append(0)
                self.depth.append(self.depth[node] + 1)
                self.found.append(None)
            node = following
        self.found[node] = string

    def _link(self) -> None:
        queue = list(self._next[0].values())
        for node in queue:
            for character, child in self._next[node].items():
                queue.append(child)
                self._fail[child] = self.step(self._fail[node], character)
                if self.found[child] is None:
                    self.found[child] = self.found[self._fail[child]]


class StopMatcher:
    """One text's way through the automaton. Holds back what may turn out to belong to a stop string."""

    def __init__(self, stops: StopStrings, *, include_stop: bool) -> None:
        self._stops = stops
        self._include_stop = include_stop
        self._node = 0
        self._held = ""

    def feed(self, text: str, *, may_stop: bool = True) -> tuple[str, str | None]:
        """Returns text that is safe to show and the stop string, if one was completed.

        The first to be completed counts; of two completed at once, the longer. Without `may_stop`,
        completed ones are passed over.
        """
        stops, node = self._stops, self._node
        for position, character in enumerate(text, 1):
            node = stops.step(node, character)
            found = stops.found[node]
            if found is not None and may_stop:
                end = len(self._held) + position
                shown = (self._held + text)[: end if self._include_stop else end - len(found)]
                self._held = ""
                return shown, found
        self._node = node
        text = self._held + text
        size = len(text) - stops.depth[node]
        self._held = text[size:]
        return text[:size], None

    def flush(self) -> str:
        """The text held back, once nothing can follow it."""
        held, self._held = self._held, ""
        return held
