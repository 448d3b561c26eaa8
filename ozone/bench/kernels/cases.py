"""What `ozone bench kernels` measures: cases and what each prepares; a family is a file and a row."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ozone.bench.limits import beyond_cache_bytes

Call = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """A prepared case.

    Attributes:
        calls: calls of our op, each with a copy of its own of what has to come from memory.
        bytes: what one call has to read from memory; 0 where everything stays in a cache.
        operations: what one call computes; a multiply-add counts as two.
        product: the kind of multiply-add, for the limit: ``fp32``, ``bf16``, ``int8``.
        touched: bytes that one call reads and writes, wherever they are; `bytes` unless told.
        peers: the same work by others, by name, with copies of their own.
        repeatable: whether the kernel launches of a call can be made again by themselves: not where it hands
            them NumPy arrays that it does not keep. Tensors are kept by whoever records.
    """

    calls: Sequence[Call] = ()
    bytes: int = 0
    operations: int = 0
    product: str = "fp32"
    touched: int = 0
    peers: Mapping[str, Sequence[Call]] = field(default_factory=dict)
    repeatable: bool = True

    def without_memory(self) -> Work:
        """The figures alone: calls hold what they work on."""
        return replace(self, calls=(), peers={})


@dataclass(frozen=True)
class Case:
    """An op, a format and a shape. `prepare` takes the memory and is called when its turn comes."""

    op: str
    format: str
    shape: str
    prepare: Callable[[], Work]

    @property
    def name(self) -> str:
        return f"{self.op} {self.format} {self.shape}"


# Each module has `cases() -> Iterator[Case]`. They are imported when the benchmark runs: they need torch.
_FAMILIES = (
    "ozone.bench.kernels.linear",
    "ozone.bench.kernels.attention",
    "ozone.bench.kernels.elementwise",
    "ozone.bench.kernels.sampling",
    "ozone.bench.kernels.overhead",
)


def all_cases() -> Iterator[Case]:
    """Every case, in the order of the report."""
    for family in _FAMILIES:
        yield from importlib.import_module(family).cases()


def selected(filters: Sequence[str]) -> list[Case]:
    """The cases whose name contains one of `filters`; all of them without any."""
    return [case for case in all_cases() if not filters or any(text in case.name for text in filters)]


def copies_for(size: int) -> int:
    """How many copies of `size` bytes are needed so that each comes from memory when its turn comes again."""
    return max(2, -(-beyond_cache_bytes() // size))
