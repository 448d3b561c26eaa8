"""The matcher: what stands where a pattern says, nothing else, and the same bits afterwards."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from ozone.compilation.passes import FUSIONS
from ozone.compilation.patterns import ops
from ozone.compilation.rules import Rule, chain
from ozone.ops.choice import OpChoice
from ozone.ops.kv_cache import CacheLayout
from ozone.ops.registry import OPS

assert OpChoice  # its import registers every op

ROWS, HEADS, HEAD_DIM = 3, 2, 32
COLUMNS = HEADS * HEAD_DIM
EPS = 1e-5


class GraphOf:
    """A graph that is built op by op, on tensors that show what each node is."""

    def __init__(self, seed: int = 0) -> None:
        self.graph = fx.Graph()
        self.arguments: list[torch.Tensor] = []
        self._generator = torch.Generator().manual_seed(seed)

    def argument(self, tensor: torch.Tensor) -> fx.Node:
        node = self.graph.placeholder(f"arg{len(self.arguments)}")
        node.meta["val"] = tensor
        self.arguments.append(tensor)
        return node

    def random(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> fx.Node:
        return self.argument(torch.randn(shape, generator=self._generator).to(dtype))

    def call(self, target: Callable[..., Any], *arguments: Any) -> fx.Node:
        node = self.graph.call_function(target, arguments)
        node.meta["val"] = target(*fx.node.map_arg(arguments, lambda n: n.meta["val"]))
        return node

    def op(self, name: str, *arguments: Any) -> Any:
        """The node, or the nodes of its results."""
        node = self.call(OPS[name].node, *arguments)
        count = len(OPS[name].schema.results)
        return node if count == 1 else [self.call(operator.getitem, node, i) for i in range(count)]

    def names(self) -> list[str]:
        return [n.target._opname for n in self.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]

    def run(self) -> tuple[Any, list[torch.Tensor]]:
        """What it returns, and what it leaves in its arguments."""
        arguments = [tensor.clone() for tensor in self.arguments]
        self.graph.lint()
        with torch.inference_mode():
            module = fx.GraphModule(torch.nn.Module(), self.graph)
            return module(*arguments), arguments


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype is b.dtype and torch.equal(
            a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)
        )
    return len(a) == len(b) and all(map(same, a, b))


NORM_QUANT = chain("rms_norm", "quantize_fp8_token")


def norm_and_quantize(graph: GraphOf) -> tuple[fx.Node, fx.Node, list[fx.Node]]:
    x, weight = graph.random(ROWS, COLUMNS), graph.random(COLUMNS, dtype=torch.float32)
    normalized = graph.op("rms_norm", x, weight, EPS)
    return x, normalized, graph.op("quantize_fp8_token", normalized)


def test_a_pattern_is_replaced_where_it_stands() -> None:
    graph = GraphOf()
    _, _, results = norm_and_quantize(graph)
    graph.graph.output(tuple(results))
    before = graph.run()
    assert NORM_QUANT.apply(graph.graph) == 1
    assert graph.names() == ["rms_norm_quantize_fp8_token"]
    assert same(graph.run(), before)
    assert NORM_QUANT.apply(graph.graph) == 0


def test_results_that_nobody_takes_are_no_hindrance() -> None:
    graph = GraphOf()
    _, _, (codes, scale) = norm_and_quantize(graph)
    graph.graph.erase_node(scale)
    graph.graph.output(codes)
    assert NORM_QUANT.apply(graph.graph) == 1


def test_a_result_that_the_pattern_alone_takes_is_not_made_again() -> None:
    def pattern(x: Any, y: Any, weight: Any, eps: Any) -> Any:
        total = ops.add(x, y)
        return ops.rms_norm(total, weight, eps), total

    graph = GraphOf()
    x, weight = graph.random(ROWS, COLUMNS), graph.random(COLUMNS, dtype=torch.float32)
    graph.graph.output(graph.op("rms_norm", graph.op("add", x, x), weight, EPS))
    before = graph.run()
    assert Rule(pattern, ops.fused_add_rms_norm).apply(graph.graph) == 1
    assert same(graph.run(), before)
    (fused,) = graph.graph.find_nodes(op="call_function", target=OPS["fused_add_rms_norm"].node)
    assert len(fused.users) == 1


def test_a_value_between_two_ops_that_something_else_needs_stays() -> None:
    graph = GraphOf()
    x, normalized, results = norm_and_quantize(graph)
    graph.graph.output((*results, graph.op("add", normalized, x)))
    assert NORM_QUANT.apply(graph.graph) == 0


def test_an_argument_that_is_a_value_between_does_not_match() -> None:
    rule = Rule(lambda x, y: ops.add(ops.scale(x, 2.0), y), lambda x, y: ops.add(x, y))
    graph = GraphOf()
    scaled = graph.op("scale", graph.random(ROWS, COLUMNS), 2.0)
    graph.graph.output(graph.op("add", scaled, scaled))
    assert rule.apply(graph.graph) == 0


def test_a_returned_value_may_be_needed_later_and_not_before() -> None:
    def graph_with(early: bool) -> GraphOf:
        graph = GraphOf()
        x, residual = graph.random(ROWS, COLUMNS), graph.random(ROWS, COLUMNS)
        weight = graph.random(COLUMNS, dtype=torch.float32)
        normalized, total = graph.op("fused_add_rms_norm", x, residual, weight, EPS)
        others = [graph.op("scale", total, 2.0)] if early else []
        codes = graph.op("quantize_int8_group", normalized, 32)
        graph.graph.output((*codes, *others, total))
        return graph

    rule = chain("fused_add_rms_norm", "quantize_int8_group")
    late, early = graph_with(early=False), graph_with(early=True)
    before = late.run()
    assert rule.apply(late.graph) == 1
    assert same(late.run(), before)
    assert rule.apply(early.graph) == 0


def test_every_getitem_of_a_result_is_that_result() -> None:
    graph = GraphOf()
    _, _, results = norm_and_quantize(graph)
    quantized = results[0].args[0]
    again = [graph.call(operator.getitem, quantized, i) for i in (1, 0)]
    graph.graph.output((*results, *again))
    before = graph.run()
    assert NORM_QUANT.apply(graph.graph) == 1
    assert same(graph.run(), before)


def test_a_tuple_that_is_passed_on_as_one_is_not_taken_apart() -> None:
    graph = GraphOf()
    _, _, results = norm_and_quantize(graph)
    graph.graph.output((*results, results[0].args[0]))
    assert NORM_QUANT.apply(graph.graph) == 0


@pytest.mark.parametrize(
    ("wanted", "given_", "matches"),
    [(2.0, 2.0, True), (2.0, 4.0, False), (None, 2.0, False), (1, True, False), (1.0, 1, False)],
)
def test_a_constant_is_itself_and_nothing_that_equals_it(wanted: Any, given_: Any, matches: bool) -> None:
    rule = Rule(lambda x: ops.scale(x, wanted), lambda x: ops.add(x, x))
    graph = GraphOf()
    node = graph.graph.call_function(OPS["scale"].node, (graph.random(ROWS, COLUMNS), given_))
    graph.graph.output(node)
    assert rule.apply(graph.graph) == matches


def test_an_argument_is_the_same_wherever_it_stands() -> None:
    rule = Rule(lambda x, f: ops.scale(ops.scale(x, f), f), lambda x, f: ops.scale(x, f))

    def places(first: float, second: float) -> int:
        graph = GraphOf()
        graph.graph.output(graph.op("scale", graph.op("scale", graph.random(ROWS, COLUMNS), first), second))
        return rule.apply(graph.graph)

    assert places(2.0, 2.0) == 1
    assert places(2.0, 3.0) == 0


def test_a_condition_sees_what_an_argument_stands_for() -> None:
    rule = Rule(
        lambda x, factor: ops.scale(x, factor),
        lambda x, factor: ops.add(x, x),
        condition=lambda match: match.bindings["factor"] == 2.0 and match.columns("x") == COLUMNS,
    )
    graph = GraphOf()
    x = graph.random(ROWS, COLUMNS)
    graph.graph.output((graph.op("scale", x, 2.0), graph.op("scale", x, 3.0)))
    before = graph.run()
    assert rule.apply(graph.graph) == 1
    assert graph.names() == ["add", "scale"]
    assert same(graph.run(), before)


def test_a_replacement_may_be_an_argument_or_several_ops() -> None:
    graph = GraphOf()
    x = graph.random(ROWS, COLUMNS)
    graph.graph.output(graph.op("scale", graph.op("scale", x, 1.0), 4.0))
    before = graph.run()
    assert Rule(lambda x: ops.scale(x, 1.0), lambda x: x).apply(graph.graph) == 1
    twice = Rule(lambda x: ops.scale(x, 4.0), lambda x: ops.scale(ops.add(x, x), 2.0))
    assert twice.apply(graph.graph) == 1
    assert graph.names() == ["add", "scale"]
    assert same(graph.run(), before)


@pytest.mark.parametrize(
    ("pattern", "replacement", "error"),
    [
        (lambda x: (ops.scale(x, 1.0), ops.scale(x, 2.0)), lambda x: (x, x), "ends in one op"),
        (lambda x: (ops.scale(x, 1.0), x), lambda x: (x, x), "ends in one op"),
        (lambda x: ops.scale(x, 1.0), lambda x: (x, x), "differ"),
        (lambda q, k, v, s: ops.kv_write(k, v, k, v, None, s), lambda q, k, v, s: ops.add(k, v), "differ"),
        (
            lambda k, v, s: ops.add(ops.kv_write(k, v, k, v, None, s), k),
            lambda k, v, s: ops.kv_write(k, v, k, v, None, s),
            "only the last op of a pattern may write",
        ),
    ],
)
def test_a_rule_that_could_not_be_right_is_refused(
    pattern: Callable[..., Any], replacement: Callable[..., Any], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        Rule(pattern, replacement).ops  # noqa: B018


def test_a_misspelled_op_and_a_wrong_number_of_arguments_are_named() -> None:
    with pytest.raises(AttributeError, match="there is no op rms_nrom"):
        ops.rms_nrom()
    with pytest.raises(TypeError, match="scale takes"):
        ops.scale(1.0)


def test_what_reads_memory_that_is_written_is_not_put_off_until_behind_a_write() -> None:
    rule = Rule(lambda x, a, b: ops.scale(ops.scale(x, a), b), lambda x, a, b: ops.scale(x, a))

    def places(read: str, write: str) -> int:
        """Two scalings of `read`, with the write before, between or behind them."""
        graph = fx.Graph()
        values = {name: graph.placeholder(name) for name in ("cache", "others", "kv", "slots")}

        def put() -> fx.Node:
            kv, cache, others, slots = (values[name] for name in ("kv", "cache", "others", "slots"))
            return graph.call_function(OPS["kv_write"].node, (kv, kv, cache, others, None, slots))

        tokens = [put()] if write == "before" else []
        first = graph.call_function(OPS["scale"].node, (values[read], 2.0))
        tokens += [put()] if write == "between" else []
        second = graph.call_function(OPS["scale"].node, (first, 3.0))
        tokens += [put()] if write == "behind" else []
        graph.output((second, *tokens))
        return rule.apply(graph)

    assert places("cache", "between") == 0
    assert places("kv", "between") == 1
    assert places("cache", "before") == places("cache", "behind") == 1


def random_graph(seed: int) -> GraphOf:
    """A graph in which patterns of the passes stand, nearly stand, and get in each other's way."""
    graph = GraphOf(seed)
    rng = random.Random(seed)
    layout = CacheLayout(2, 16, HEADS, HEAD_DIM, torch.bfloat16)
    rows: list[fx.Node] = [graph.random(ROWS, COLUMNS), graph.random(ROWS, COLUMNS)]
    weights = [graph.random(COLUMNS, dtype=torch.float32) for _ in range(2)]
    head_weights = [graph.random(HEAD_DIM, dtype=torch.float32) for _ in range(2)]
    scale = graph.argument(torch.tensor([0.05]))
    positions = graph.argument(torch.arange(ROWS, dtype=torch.int32))
    cos_sin = graph.random(8, HEAD_DIM, dtype=torch.float32)
    slots = graph.argument(torch.tensor([3, 17, 5]))
    caches = []
    for _ in range(2):
        cache = layout.allocate("a test's cache")
        caches.append([graph.argument(part) for part in (cache.keys, cache.values)])
    batch = [
        graph.argument(torch.tensor(numbers, dtype=torch.int32)) for numbers in ([[0, 1]], [0, ROWS], [ROWS])
    ]
    results: list[fx.Node] = []

    def pick() -> fx.Node:
        return rng.choice(rows[-4:])

    def norm() -> None:
        rows.append(graph.op("rms_norm", pick(), rng.choice(weights), EPS))

    def add_norm() -> None:
        rows.extend(reversed(graph.op("fused_add_rms_norm", pick(), pick(), rng.choice(weights), EPS)))

    def gate() -> None:
        wide = graph.call(torch.ops.aten.cat.default, [pick(), pick()], 1)
        rows.append(graph.op(rng.choice(["silu_and_mul", "gelu_tanh_and_mul"]), wide))

    def quantize() -> None:
        name, *arguments = rng.choice(
            [
                ("quantize_fp8_static", scale),
                ("quantize_int8_static", scale),
                ("quantize_fp8_token",),
                ("quantize_int8_token",),
                ("quantize_fp8_group", 32),
                ("quantize_int8_group", 32),
                ("pad", 128),
            ]
        )
        found = graph.op(name, rows[-1], *arguments)
        if name == "pad" and rng.random() < 0.5:
            found = graph.op("quantize_fp8_group", found, 128)
        results.extend(found if isinstance(found, list) else [found])

    def combine() -> None:
        rows.append(graph.op("add", pick(), pick()))

    def attend() -> None:
        q, k, v = (graph.call(torch.ops.aten.view.default, pick(), [ROWS, HEADS, HEAD_DIM]) for _ in range(3))
        if rng.random() < 0.5:
            q, k = (graph.op("rms_norm", x, w, EPS) for x, w in zip((q, k), head_weights, strict=True))
        q, k = graph.op("rotary_embedding", q, k, positions, cos_sin, rng.random() < 0.5)
        keys, values = rng.choice(caches)
        token = graph.op("kv_write", k, v, keys, values, None, slots)
        if rng.random() < 0.2:
            results.append(k)
        rows.append(graph.op("attention", q, keys, values, None, token, *batch, 0.2, None, None))

    for _ in range(rng.randint(1, 14)):
        rng.choice([norm, add_norm, gate, quantize, quantize, combine, attend])()
    outputs = [*rng.sample(rows, min(2, len(rows))), *results]
    graph.graph.output(tuple(outputs))
    return graph


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 1 << 30))
def test_a_rewritten_graph_computes_the_same_bits(seed: int) -> None:
    graph = random_graph(seed)
    before = graph.run()
    for fusion in FUSIONS:
        for rule in fusion.rules:
            rule.apply(graph.graph)
    assert same(graph.run(), before)
    assert not any(rule.apply(graph.graph) for fusion in FUSIONS for rule in fusion.rules)


def test_the_random_graphs_have_places_for_every_rule() -> None:
    without = {rule.ops for fusion in FUSIONS for rule in fusion.rules}
    for seed in range(1500):
        graph = random_graph(seed).graph
        without -= {
            rule.ops
            for fusion in random.Random(seed).sample(FUSIONS, len(FUSIONS))
            for rule in fusion.rules
            if rule.apply(graph)
        }
    assert not without
