"""Products with weight matrices, in the formats of `formats.py`, by one token, a few and many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from ozone.bench.kernels.cases import Call, Case, Work, copies_for
from ozone.bench.kernels.formats import FORMATS, HEADS, Format, Product, Tensors
from ozone.bench.kernels.tensors import in_region, tensor_bytes

_TOKENS = (1, 32, 512)
_MATRICES = ((2048, 8192), (8192, 2048))
# A decoder layer of SmolLM2-135M, rows and columns: as the checkpoint has it, and with q, k, v and gate, up
# merged.
_SEVEN = ((576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536))
_MERGED = ((960, 576), (576, 576), (3072, 576), (576, 1536))
_HEAD = (49152, 576)
_LAYER_FORMATS = ("bf16", "fp8", "int8", "Q4_1")


def cases() -> Iterator[Case]:
    for form in FORMATS:
        for tokens in _TOKENS:
            for rows, cols in _MATRICES:
                yield _case("linear", form, f"{tokens} x {rows}x{cols}", tokens, [(rows, cols)])
    for form in FORMATS:
        if form.name in _LAYER_FORMATS:
            yield _case("linear", form, "1 x SmolLM2 layer, 7 matrices", 1, _SEVEN)
            yield _case("linear", form, "1 x SmolLM2 layer, merged", 1, _MERGED)
    for form in HEADS:
        for tokens in _TOKENS[:2]:
            yield _case("logits", form, f"{tokens} x {_HEAD[0]}x{_HEAD[1]}", tokens, [_HEAD])


def _case(op: str, form: Format, shape: str, tokens: int, matrices: Sequence[tuple[int, int]]) -> Case:
    return Case(op, form.name, shape, lambda: _work(form, tokens, matrices))


def _work(form: Format, tokens: int, matrices: Sequence[tuple[int, int]]) -> Work:
    calls, size = _calls(form.ours, tokens, matrices)
    peers = {name: peer for name, peer in form.peers.items() if tokens <= peer.max_tokens}
    return Work(
        calls,
        bytes=size,
        operations=sum(2 * tokens * rows * cols for rows, cols in matrices),
        product=form.arithmetic,
        peers={name: _calls(peer, tokens, matrices)[0] for name, peer in peers.items()},
    )


def _calls(product: Product, tokens: int, matrices: Sequence[tuple[int, int]]) -> tuple[list[Call], int]:
    """Calls that multiply with all of the matrices in sequence, each with copies of its own; and the bytes
    of the weights of one of them.
    """
    inputs = {cols: product.inputs(tokens, cols) for _, cols in matrices}
    first = [product.weights(rows, cols) for rows, cols in matrices]
    size = sum(tensor_bytes(tensor) for weights in first for tensor in weights)

    def call(copy: Sequence[Tensors]) -> list[object]:
        return [
            product.call(inputs[cols], weights, rows)
            for (rows, cols), weights in zip(matrices, copy, strict=True)
        ]

    def another() -> list[Tensors]:
        if any(tensor.is_mkldnn for weights in first for tensor in weights):
            return [product.weights(rows, cols) for rows, cols in matrices]
        return [tuple(in_region(tensor) for tensor in weights) for weights in first]

    return [partial(call, another()) for _ in range(copies_for(size))], size
