"""The launches of a step as things to measure: kernel, shape, what they read of weights and caches."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ozone.config.engine_settings import kv_bytes_per_token, kv_cache_dtype
from ozone.config.schema import OzoneConfig
from ozone.native import library

if TYPE_CHECKING:
    from torch import Tensor

    from ozone.bench.steps import Batch, Steps
    from ozone.engine.input_buffers import BatchCounts

_PRODUCTS = {"linear_float": "bf16", "linear_fp8": "bf16", "linear_int4": "bf16"}
_INT8_PRODUCTS = ("linear_int8", "linear_gguf")
_FLOAT32 = 0  # of csrc/kernels/types.h


@dataclass
class Node:
    """A launch.

    Attributes:
        shape: its integers that say how much it does.
        bytes: of weights or KV cache that it reads; 0 for what works on activations alone.
        operations: a multiply-add is two; 0 for what does not multiply matrices.
        product: which peak bounds those, of `ozone.bench.limits.PRODUCTS`.
        seconds: the median of its times.
    """

    kernel: str
    shape: str
    bytes: int = 0
    operations: int = 0
    product: str = ""
    seconds: float = 0.0


def nodes_of(model: Steps, bound: Any, batch: Batch, counts: BatchCounts, config: OzoneConfig) -> list[Node]:
    """The launches of the program that this batch runs. `bound`: it, over the model's memory."""
    native = library()
    assert native is not None, "programs run where the native library is"
    weights = _Weights(model.tensors().values())
    contexts = [item.start + item.num_tokens for item in batch.scheduled]
    layer_bytes = _layer_bytes(model, config)
    nodes = []
    for kernel, values in bound.nodes((counts.num_tokens, counts.num_requests, counts.num_logits)):
        described = native.kernels()[kernel].fields
        fields = {name: value for (name, _), value in zip(described, values, strict=True)}
        node = Node(kernel, _shape(fields, described))
        if "weight" in fields and kernel.startswith("linear"):
            rows = fields.get("rows") or sum(fields.get(f"rows{i}", 0) for i in range(3))
            node.bytes = weights.bytes_at(fields["weight"])
            node.operations = 2 * fields["tokens"] * rows * fields["cols"]
            node.product = _product(kernel, fields)
        elif kernel == "attention":
            seen = fields["window"] or max(contexts)
            node.bytes = layer_bytes * sum(min(context, seen) for context in contexts)
        nodes.append(node)
    return nodes


class _Weights:
    """How large the memory is that an address lies in."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
        self._begins = sorted(storages)
        self._bytes = [storages[begin].nbytes() for begin in self._begins]

    def bytes_at(self, address: int) -> int:
        return self._bytes[bisect.bisect_right(self._begins, address) - 1]


def _layer_bytes(model: Steps, config: OzoneConfig) -> int:
    """Of the KV cache of a layer, for one token."""
    files = model.model_config
    return kv_bytes_per_token(files, kv_cache_dtype(config.cache.kv_cache_dtype, config.model.dtype)) // (
        files.num_layers
    )


def _product(kernel: str, fields: Mapping[str, Any]) -> str:
    if kernel in _INT8_PRODUCTS:
        return "int8"
    return "fp32" if fields.get("dtype") == _FLOAT32 else _PRODUCTS[kernel]


_SIZES = (
    "tokens",
    "requests",
    "rows",
    "cols",
    "rows0",
    "rows1",
    "rows2",
    "heads",
    "kv_heads",
    "head_dim",
    "columns",
)


def _shape(fields: Mapping[str, Any], described: Sequence[tuple[str, str]]) -> str:
    """As ``tokens=1 rows=960 cols=576``."""
    integers = {name for name, kind in described if kind in ("count", "integer")}
    return " ".join(f"{name}={fields[name]}" for name in _SIZES if name in integers and fields[name])
