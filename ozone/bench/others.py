"""How much of the cores other processes took while something was measured, as Linux counts it."""

from __future__ import annotations

import os
import time
from pathlib import Path

# Of a line of /proc/stat: user, nice, system, irq, softirq, steal; not idle, not waiting.
_BUSY = (0, 1, 2, 5, 6, 7)


class OtherProcesses:
    """Counts from when it is made. Only this process's cores are looked at."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._cores = _cores()
        self._begin = time.monotonic()
        self._busy, self._own = self._busy_seconds(), time.process_time()

    def share(self) -> float | None:
        """What others took of the cores since then: 0 to 1, None where the system does not say."""
        busy = self._busy_seconds()
        if busy is None or self._busy is None:
            return None
        others = (busy - self._busy) - (time.process_time() - self._own)
        available = (time.monotonic() - self._begin) * len(self._cores)
        return min(1.0, max(0.0, others / available)) if available else None

    def _busy_seconds(self) -> float | None:
        try:
            lines = self._stat.read_text(encoding="ascii").splitlines()
            ticks = 0
            for line in lines:
                name, *numbers = line.split()
                if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in self._cores:
                    ticks += sum(int(numbers[place]) for place in _BUSY)
        except (OSError, ValueError, IndexError):
            return None
        return ticks / os.sysconf("SC_CLK_TCK")


def _cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
