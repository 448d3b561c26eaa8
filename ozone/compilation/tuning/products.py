"""A model's products as launches to measure: with its own weights, in the order of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ozone.compilation.lowering import Recording, span_of
from ozone.compilation.pool import PlannedPool
from ozone.layers.linear import Linear
from ozone.native import library

if TYPE_CHECKING:
    from ozone.models.causal_lm import CausalLM

# Rows are recognized by this prime; what is recorded runs with as many rows as it is told, up to so many.
MOST_ROWS = 131
# Counts that no launch of a product has.
_OTHER_COUNTS = (1_000_003, 1_000_033)
_GGUF_TYPES = {2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K"}
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Shape:
    """Products that one choice is for.

    Attributes:
        key: what the native library knows it by.
        label: rows, columns and formats, for people.
        ways: of its kernel, by their place there.
        is_head: whether it is the output head, which few rows are computed of.
    """

    key: int
    kernel: str
    label: str
    ways: tuple[str, ...]
    is_head: bool


@dataclass(frozen=True)
class Product:
    """A product of a model: its module takes (tokens, `columns`) of `dtype`."""

    module: nn.Module
    columns: int
    dtype: torch.dtype
    is_head: bool = False


@dataclass
class Products:
    """Launches of products, to be made again with any number of rows up to `MOST_ROWS`.

    Attributes:
        shapes: of each launch that has a choice, by its place.
        of_launch: the product that each launch is for, by its place; some prepare the inputs of another.
    """

    shapes: dict[int, Shape]
    of_launch: list[Product]
    _program: Any
    _kept: Any = field(repr=False)  # what the launches point into

    def seconds(self, rows: int, way: int) -> NDArray[np.float64]:
        """How long each launch took, in seconds; `way` by its place."""
        return np.asarray(self._program.times([rows, *_OTHER_COUNTS], way), np.float64) / 1e9

    def few(self, each: int) -> list[Product]:
        """At most `each` products of each shape, in their order."""
        left: dict[Shape, int] = {}
        found = []
        for place, shape in self.shapes.items():
            left[shape] = left.get(shape, each) - 1
            if left[shape] >= 0:
                found.append(self.of_launch[place])
        return found


def record(model: CausalLM, products: Sequence[Product]) -> Products:
    """The launches of `products`, none of which is made yet."""
    native = library()
    assert native is not None, "launches are the native library's"
    pool, launches = PlannedPool(), native.Launches()
    of_launch: list[Product] = []
    with torch.inference_mode():
        launches.record(dry=True)
        try:
            with Recording(pool, foreign=True):
                for product in products:
                    product.module(torch.empty((MOST_ROWS, product.columns), dtype=product.dtype))
                    of_launch += [product] * (len(launches) - len(of_launch))
        finally:
            native.Launches.stop()
    constants = [*model.parameters(), *model.buffers()]
    spans = [*dict.fromkeys(map(span_of, constants)), pool.span]
    program = launches.store([MOST_ROWS, *_OTHER_COUNTS], spans).bind(spans)
    return Products(_shapes(program, of_launch), of_launch, program, (constants, pool))


def products_of(model: CausalLM) -> list[Product]:
    """Every product of a model in the order of a step, the output head last."""
    parts = {part for linear in _linears(model) for part in getattr(linear, "parts", ())}
    products = [
        Product(linear, linear.in_features, linear.dtype) for linear in _linears(model) if linear not in parts
    ]
    table = model.lm_head.table
    return [*products, Product(model.lm_head, table.columns, table.dtype, is_head=True)]


def _linears(model: CausalLM) -> Iterator[Linear]:
    return (module for module in model.modules() if isinstance(module, Linear))


def _shapes(program: Any, of_launch: Sequence[Product]) -> dict[int, Shape]:
    native = library()
    assert native is not None
    kernels = native.kernels()
    shapes = {}
    nodes = program.nodes([1, 1, 1])
    for place, (key, (name, values), product) in enumerate(
        zip(program.shapes(), nodes, of_launch, strict=True)
    ):
        kernel = kernels[name]
        if len(kernel.ways) > 1:
            fields = {field: value for (field, _), value in zip(kernel.fields, values, strict=True)}
            shapes[place] = Shape(key, name, _label(fields), kernel.ways, product.is_head)
    return shapes


def _label(fields: dict[str, Any]) -> str:
    """As ``960 x 576 Q4_1``."""
    segments = [(fields.get(f"rows{i}", 0), fields.get(f"type{i}", 0)) for i in range(3)]
    rows = fields.get("rows") or sum(count for count, _ in segments)
    types = dict.fromkeys(_GGUF_TYPES[kind] for count, kind in segments if count)
    form = "+".join(types) or _DTYPES[fields["dtype"]]
    group = fields.get("group_cols")
    return f"{rows} x {fields['cols']} {form}" + (f", groups of {group}" if group else "")
