"""How many bytes of bodies the server holds while they arrive: for all requests together."""

from __future__ import annotations

from ozone.errors import QueueFullError

# What the largest bodies may take together, as a multiple of the most for one.
BODIES = 32
# Short bodies are always taken: together they are bounded by the number of connections.
SHORT_BYTES = 64 << 10


class ReceiveBuffer:
    """What all bodies under way take. Used in the event loop only."""

    def __init__(self, most_bytes: int) -> None:
        self.num_bytes = 0
        self._most = most_bytes

    def part(self) -> BufferPart:
        """Room for one body; a context that gives it back."""
        return BufferPart(self)

    def take(self, num_bytes: int) -> None:
        """Raises RequestError (429) where all bodies together would be too much."""
        if self.num_bytes + num_bytes > self._most:
            raise QueueFullError(
                f"Bodies of {self.num_bytes} bytes are arriving; the most is {self._most}: try again later"
            )
        self.num_bytes += num_bytes


class BufferPart:
    """One body's part of the buffer."""

    def __init__(self, buffer: ReceiveBuffer) -> None:
        self._buffer = buffer
        self._num_bytes = 0
        self._counted = 0

    def add(self, num_bytes: int) -> None:
        """So much more has arrived. Raises RequestError (429)."""
        self._num_bytes += num_bytes
        if self._num_bytes > SHORT_BYTES:
            self._buffer.take(self._num_bytes - self._counted)
            self._counted = self._num_bytes

    def __enter__(self) -> BufferPart:
        return self

    def __exit__(self, *_: object) -> None:
        self._buffer.num_bytes -= self._counted
