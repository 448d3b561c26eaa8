"""The jinja2 environment in which chat templates run: what Hugging Face's offer them, and nothing more.

A template comes with a model, from anyone. Jinja's sandbox keeps it away from Python's internals; the
meter here keeps it from running on or filling the memory. Importing this module imports jinja2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError, TemplateSyntaxError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS as DEFAULT_TESTS
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from ozone.engine.chat_template_budget import OBJECT, POINTER, Budget
from ozone.engine.chat_template_filters import ATTRIBUTES, call_string_method, chat_template_filters
from ozone.engine.chat_template_formats import check_brace_format, check_percent_format, check_time_format

MAX_INTEGER_BITS = 4096
ENTRY = 2 * OBJECT  # what a place in a dict costs, in characters

_CONTEXT_ARGUMENTS = {"_loop_vars", "_block_vars"}
# These look at no more than the type or identity of their value.
_CHEAP_TESTS = {
    "boolean", "callable", "defined", "false", "float", "integer", "iterable", "mapping", "none", "number",
    "sameas", "sequence", "string", "true", "undefined",
}  # fmt: skip


class TemplateRefusalError(TemplateRuntimeError):
    """The template called raise_exception: it refuses the conversation, and says why."""


class ChatTemplateEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox for one template. Each compilation and each rendering must begin with `budget.restart()`."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def __init__(self) -> None:
        extensions = [LoopControlExtension, _GenerationTag]
        self.budget = Budget()
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=self._output)
        self.filters = chat_template_filters(self, self.budget)
        self.tests = {name: self._metered_test(name, test) for name, test in DEFAULT_TESTS.items()}
        self.globals = {
            "dict": self._make_dict,
            "namespace": self._make_namespace,
            "raise_exception": self._raise_exception,
            "range": self.globals["range"],
            "strftime_now": _strftime_now,
        }

    # What `_Instrument` puts into templates.

    def turn(self, outputs: int) -> bool:
        """Called at the start of each turn of a loop and each macro, with the number of its outputs."""
        self.budget.tick()
        self.budget.charge(POINTER * outputs)
        return True

    def comparable(self, value: Any, deep: bool) -> Any:
        """An operand of a comparison. Not `deep` where the other one is a constant."""
        self.budget.tick()
        return self.budget.comparable(value) if deep else value

    def built(self, value: Any) -> Any:
        """A list, tuple or dict written out in the template."""
        self.budget.tick()
        self.budget.charge(OBJECT + len(value) * (ENTRY if isinstance(value, dict) else POINTER))
        return value

    def part(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """``value[start:stop:step]``."""
        self.budget.tick()
        places = slice(start, stop, step)
        if isinstance(value, (str, list, tuple)):
            size = len(range(len(value))[places])
            self.budget.charge(size if isinstance(value, str) else OBJECT + POINTER * size)
        return value[places]

    def join_operands(self, *operands: Any) -> str:
        """The ``~`` operator."""
        return self.concat([self.budget.text(operand) for operand in operands])

    # What Jinja calls.

    def concat(self, parts: Iterable[str]) -> str:
        """Joins the output of a block or macro."""
        parts = list(parts)
        self.budget.charge(sum(map(len, parts)))
        return "".join(parts)

    def _output(self, value: Any) -> str:
        """What ``{{ }}`` puts out."""
        self.budget.tick()
        self.budget.charge(POINTER if isinstance(value, str) else OBJECT)
        return self.budget.text(value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Instrument().visit(super()._parse(source, name, filename))
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, names in ATTRIBUTES.items():
            if isinstance(obj, kind) and attr not in names:
                return False
        return super().is_safe_attribute(obj, attr, value)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return super().getitem(obj, self.budget.comparable(argument))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self.budget.tick()
        match operator, left, right:
            case "%", str(), _:
                check_percent_format(self.budget, left, right)
                return self.budget.result(super().call_binop(context, operator, left, right))
            case "+", str(), str():
                self.budget.charge(len(left) + len(right))
            case "+", (list() | tuple()), (list() | tuple()):
                self.budget.charge(OBJECT + POINTER * (len(left) + len(right)))
            case "*", (str() | list() | tuple()), int():
                self._charge_repeated(left, right)
            case "*", int(), (str() | list() | tuple()):
                self._charge_repeated(right, left)
            case "*", int(), int():
                _check_bits(left.bit_length() + right.bit_length())
            case "**", int(), int():
                _check_bits(left.bit_length() * abs(right))
            case _, (int() | float()), (int() | float()):
                pass
            case "-", _, _ if isinstance(left, Set) or isinstance(right, Set):
                raise SecurityError("it subtracts sets")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None or value.__name__ != "format":
            return None
        form = str(value.__self__)

        def metered_format(*args: Any, **kwargs: Any) -> str:
            check_brace_format(self.budget, form, [args, kwargs])
            return wrapped(*args, **kwargs)

        return metered_format

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        budget = __self.budget
        budget.tick()
        owner = getattr(__obj, "__self__", None)
        if owner is not None:  # methods do not ask for the context, whose parts come by these names
            kwargs = {name: value for name, value in kwargs.items() if name not in _CONTEXT_ARGUMENTS}
        if isinstance(owner, str):
            return budget.result(call_string_method(budget, __obj, *args, **kwargs))
        if owner is not None and owner is not __self:
            for argument in (*args, *kwargs.values()):
                budget.comparable(argument)
            if isinstance(owner, (list, tuple)):
                budget.comparable(owner)
        result = super().call(__context, __obj, *args, **kwargs)
        return result if isinstance(owner, dict) and __obj.__name__ == "get" else budget.result(result)

    def _metered_test(self, name: str, test: Any) -> Callable[..., Any]:
        @wraps(test)
        def metered(*args: Any, **kwargs: Any) -> Any:
            self.budget.tick()
            if name not in _CHEAP_TESTS:
                for argument in (*args, *kwargs.values()):
                    self.budget.comparable(argument)
            if name in ("lower", "upper"):
                self.budget.text(args[0])
            return test(*args, **kwargs)

        return metered

    def _charge_repeated(self, value: Any, times: int) -> None:
        size = len(value) * max(times, 0)
        self.budget.charge(size if isinstance(value, str) else OBJECT + POINTER * size)

    # What templates call.

    def _make_dict(self, pairs: Any = (), /, **entries: Any) -> dict[Any, Any]:
        # The type itself has methods that change their argument.
        given = pairs if isinstance(pairs, dict) else self.budget.collect(pairs)
        self.budget.comparable(given)
        self.budget.charge(OBJECT + ENTRY * (len(given) + len(entries)))
        return dict(given, **entries)

    def _make_namespace(self, pairs: Any = (), /, **entries: Any) -> _PlainNamespace:
        return _PlainNamespace(self._make_dict(pairs, **entries))

    def _raise_exception(self, message: Any) -> None:
        raise TemplateRefusalError(self.budget.text(message))


class _Instrument(NodeTransformer):
    """Sends through the environment's budget what Jinja compiles to plain Python."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        turn = _turn(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(turn, lineno=node.lineno))
        if node.test is not None:  # a loop whose test is never true has no turns
            node.test = nodes.And(turn, node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        turn = _turn(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(turn, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("join_operands", node.nodes, node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        sides: list[nodes.Compare | nodes.Operand] = [node, *node.ops]
        deep = not any(isinstance(side.expr, nodes.Const) for side in sides)
        for side in sides:
            if not isinstance(side.expr, nodes.Const):
                side.expr = _call("comparable", [side.expr, nodes.Const(deep)], node.lineno)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        ends = [end or nodes.Const(None) for end in (node.arg.start, node.arg.stop, node.arg.step)]
        return _call("part", [node.node, *ends], node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("built", [node], node.lineno)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("built", [node], node.lineno) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        for pair in node.items:
            if not isinstance(pair.key, nodes.Const):
                pair.key = _call("comparable", [pair.key, nodes.Const(True)], node.lineno)
        return _call("built", [node], node.lineno)

    def visit_ScopedEvalContextModifier(self, node: nodes.Node) -> nodes.Node:  # noqa: N802
        raise TemplateSyntaxError("autoescape is for HTML", node.lineno)


def _call(method: str, arguments: list[nodes.Expr], lineno: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), arguments, [], None, None, lineno=lineno)


def _turn(node: nodes.Node) -> nodes.Call:
    outputs = sum(len(output.nodes) for output in node.find_all(nodes.Output))
    return _call("turn", [nodes.Const(outputs)], node.lineno)


class _GenerationTag(Extension):
    """``{% generation %}``: marks what the assistant says, which matters in training only."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=lineno)


class _PlainNamespace(Namespace):
    """Jinja's namespace, less names with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"it sets the private attribute {name!r}")
        super().__setitem__(name, value)


def _strftime_now(form: str) -> str:
    check_time_format(form)
    return datetime.now().strftime(form)


def _check_bits(bits: int) -> None:
    if bits > MAX_INTEGER_BITS:
        raise SecurityError(f"it computes a number of more than {MAX_INTEGER_BITS} bits")
