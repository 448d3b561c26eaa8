"""Processes that end with the one that started them, also where that is killed.

The parent keeps one end of a pipe, the child a thread that reads the other: when the parent is gone, so
is its end, whoever killed it.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

_VARIABLE = "OZONE_PARENT_FD"


class TiedProcess(subprocess.Popen[Any]):
    """A process whose program calls `end_with_parent` first thing."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str] | None = None, **how: Any) -> None:
        reading, self._writing = os.pipe()  # neither is inherited but where it is said
        environment = {**(os.environ if env is None else env), _VARIABLE: str(reading)}
        try:
            super().__init__(command, env=environment, pass_fds=(reading,), **how)
        except BaseException:
            os.close(self._writing)
            raise
        finally:
            os.close(reading)

    def wait(self, timeout: float | None = None) -> int:
        code = super().wait(timeout)
        self._let_go()
        return code

    def _let_go(self) -> None:
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    def __del__(self) -> None:
        self._let_go()  # a process that nobody knows any more goes too
        super().__del__()


def end_with_parent() -> None:
    """End this process when the one that started it as a `TiedProcess` ends. Else does nothing."""
    descriptor = os.environ.pop(_VARIABLE, "")
    if not descriptor.isdecimal():
        return

    def wait() -> None:
        try:
            os.read(int(descriptor), 1)  # nothing is ever written
        except OSError:
            return  # it was not passed on
        os._exit(1)

    threading.Thread(target=wait, name="ozone-parent", daemon=True).start()
