"""Where the time of a start goes: named phases from process start to ready.

Phases may overlap (torch is imported while the tokenizer loads), so each keeps its own begin and
end; the line and the JSON report are both made from them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


def process_start_time() -> float:
    """When this process began, on the clock of `time.monotonic` (resolution 10 ms on Linux)."""
    now = time.monotonic()
    try:
        with open("/proc/self/stat", encoding="ascii") as stat:
            # The command name in field 2 may hold spaces; fields after the last ')' are fixed.
            fields = stat.read().rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, ValueError, AttributeError):
        return now
    return now - max(age, 0.0)


@dataclass(frozen=True)
class Phase:
    """One phase of the start; `begin` and `end` in seconds after process start."""

    name: str
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


class StartupTimer:
    """Collects phases, from any thread. `origin` is on the clock of `time.monotonic`."""

    def __init__(self, origin: float | None = None) -> None:
        self._origin = time.monotonic() if origin is None else origin
        self._phases: list[Phase] = []
        self._lock = threading.Lock()
        self._ready: float | None = None
        if origin is not None:
            self._add("interpreter", 0.0)

    def _now(self) -> float:
        return self.since_start(time.monotonic())

    def _add(self, name: str, begin: float) -> None:
        with self._lock:
            self._phases.append(Phase(name, begin, self._now()))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as a phase; a block that raises is not a phase."""
        begin = self._now()
        yield
        self._add(name, begin)

    def mark(self, name: str) -> None:
        """End a phase now that began where the last one ended, or at process start."""
        self._add(name, max((phase.end for phase in self._phases), default=0.0))

    def ready(self) -> None:
        """The engine accepts requests from now on; the first call counts."""
        if self._ready is None:
            self._ready = self._now()

    def since_start(self, moment: float) -> float:
        """Seconds from process start to `moment` of `time.monotonic`."""
        return moment - self._origin

    @property
    def total(self) -> float:
        """Seconds from process start to ready, or until now while starting."""
        return self._now() if self._ready is None else self._ready

    def line(self) -> str:
        """The start as one line."""
        parts = ", ".join(f"{phase.name} {phase.seconds:.2f}" for phase in self._sorted())
        return f"ready in {self.total:.2f} s ({parts}; phases may overlap)"

    def table(self) -> str:
        """The start in full, one phase a line, with a bar that shows when each one ran."""
        width = 40
        scale = width / max(self.total, 1e-9)
        rows = [f"{'phase':<14}{'begin s':>9}{'seconds':>9}  "]
        for phase in self._sorted():
            left = min(int(phase.begin * scale), width - 1)
            length = max(1, min(round(phase.seconds * scale), width - left))
            rows.append(
                f"{phase.name:<14}{phase.begin:>9.3f}{phase.seconds:>9.3f}  {' ' * left}{'█' * length}"
            )
        rows.append(f"{'ready':<14}{self.total:>9.3f}")
        return "\n".join(row.rstrip() for row in rows)

    def report(self) -> dict[str, Any]:
        """The start as JSON: ``{"total_seconds", "phases": [{"name", "begin", "seconds"}]}``."""
        return {
            "total_seconds": round(self.total, 4),
            "phases": [
                {"name": p.name, "begin": round(p.begin, 4), "seconds": round(p.seconds, 4)}
                for p in self._sorted()
            ],
        }

    def _sorted(self) -> list[Phase]:
        with self._lock:
            return sorted(self._phases, key=lambda phase: (phase.begin, phase.end))
