"""What a trace of a model may read besides the values of its weights, as JSON has it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import CellType
from typing import Any

import torch
from torch import Tensor, nn

_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


class UndescribableError(Exception):
    """A model holds what a key cannot tell from another of its kind, so that it has no key."""


def metadata(x: Tensor) -> tuple[str, list[int], list[int]]:
    """Type, shape and strides."""
    return str(x.dtype), list(x.shape), list(x.stride())


class Describer:
    """Objects as JSON has them: whatever a trace of a model may read besides its tensors.

    Each object that is met again is a number.

    Attributes:
        met: those numbers, by the identity of objects, which live as long as this does.
    """

    def __init__(self) -> None:
        self.met: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no identity is given away twice

    def modules(self, model: nn.Module) -> list[Any]:
        """Every module: its name, its class, its own attributes."""
        return [
            [
                name,
                _name(type(module)),
                [
                    [key, self.attribute(key, value)]
                    for key, value in vars(module).items()
                    if key not in _MODULE_ATTRIBUTES
                ],
            ]
            for name, module in model.named_modules(remove_duplicate=False)
        ]

    def attribute(self, key: str, x: Any) -> Any:  # noqa: ARG002 (for those who tell names apart)
        """An attribute of a module."""
        return self.value(x)

    def value(self, x: Any) -> Any:
        """Any value."""
        if x is None or isinstance(x, bool | int | float | str | bytes):
            return repr(x)
        if isinstance(x, torch.dtype | torch.device | torch._ops.OpOverload | enum.Enum):
            return str(x)
        if isinstance(x, Tensor):
            return ["tensor", *metadata(x)]
        return self.object(x)

    def object(self, x: Any) -> Any:
        """What has an identity of its own."""
        if id(x) in self.met:
            return self.met[id(x)]
        self.met[id(x)] = len(self.met)
        self._kept.append(x)
        return [_name(type(x)), self._parts(x)]

    def _parts(self, x: Any) -> Any:
        if isinstance(x, nn.Module):
            return None  # a name among `modules`
        if isinstance(x, Mapping):
            return [[self.value(key), self.value(x[key])] for key in x]
        if isinstance(x, set | frozenset):
            return sorted(map(repr, x))
        if isinstance(x, list | tuple):
            return [self.value(item) for item in x]
        if isinstance(x, type):
            return _name(x)
        if isinstance(x, CellType):
            return self.value(x.cell_contents)
        if callable(x) and hasattr(x, "__qualname__"):
            enclosed = [
                self.value(getattr(x, name, None)) for name in ("__self__", "__defaults__", "__closure__")
            ]
            return [x.__module__, x.__qualname__, enclosed]
        if not hasattr(x, "__dict__"):
            raise UndescribableError(f"nothing is known of a {_name(type(x))} but its class")
        return [[name, self.value(value)] for name, value in vars(x).items()]


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
