"""A server of the benchmark's own: started on a free port of loopback, stopped afterwards."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence

from ozone.bench.child import child_failure
from ozone.parent import TiedProcess

_SERVING = re.compile(r"Serving .* at (http://\S+)/v1$")
_STOP_SECONDS = 30.0


class OwnServer:
    """`ozone serve` in a process of its own; use as a context manager.

    Attributes:
        base_url: where it answers, without ``/v1``.
    """

    def __init__(self, words: Sequence[str], *, api_key: str | None = None) -> None:
        """Start with the engine's `words` and wait until it serves. `OzoneError` for a mistake in them."""
        command = [sys.executable, "-m", "ozone.entrypoints.api_server", *words]
        environment = {**os.environ, **({"OZONE_API_KEY": api_key} if api_key else {})}
        self._process = TiedProcess(
            [*command, "--host", "127.0.0.1", "--port", "0"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._lines: deque[str] = deque(maxlen=200)
        # The URL once it serves; None where it ends before.
        self._said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            url = self._said.get()
        except BaseException:
            self.stop()
            raise
        if url is None:
            code = self._process.wait()
            raise child_failure("ozone serve", code, "\n".join(self._lines))
        self.base_url = url

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    @property
    def lines(self) -> list[str]:
        """The last lines that it wrote to stderr."""
        return list(self._lines)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line.rstrip("\n"))
            match = _SERVING.search(self._lines[-1])
            if match is not None:
                self._said.put(match[1])
        self._said.put(None)

    def stop(self) -> None:
        """Ask it to end, and after half a minute make it."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def __enter__(self) -> OwnServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
