"""Kernel launches without Python between them: recorded from calls of ops, and made again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

from ozone.bench.kernels.cases import Call
from ozone.native import library


class Launches:
    """The kernel launches of some calls, in order. Their tensors live as long as this does."""

    def __init__(self, calls: Sequence[Call]) -> None:
        """Makes each call once."""
        native = library()
        assert native is not None, "cases run where the native library is"
        self._recorded = native.Launches()
        with _KeepTensors() as self._tensors:
            self._recorded.record()
            try:
                self._results = [call() for call in calls]
            finally:
                native.Launches.stop()

    def __len__(self) -> int:
        return len(self._recorded)

    @property
    def way(self) -> str:
        """The ways that the kernels take which have several: see docs/tuning.md."""
        return ", ".join(dict.fromkeys(way for way in self._recorded.ways() if way))

    def run(self) -> None:
        """Make them again, on the same memory."""
        self._recorded.run()


class _KeepTensors(TorchFunctionMode):
    """Keeps what torch functions return: an op may hand a tensor to a kernel and forget it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.kept.append(result)
        return result
