"""The jinja2 environment in which chat templates run: what Hugging Face's offer them, and nothing more.

A template comes with a model, from anyone. Jinja's sandbox keeps it away from Python's internals; the
meter here keeps it from running on or filling the memory. Importing this module imports jinja2.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_SECONDS = 5.0  # a template takes milliseconds
MAX_CHARACTERS = 64 << 20  # of all strings and lists made on the way
MAX_INTEGER_BITS = 4096

# These make a long string out of a number, and no chat template needs them.
_PADDING_METHODS = {"center", "expandtabs", "ljust", "rjust", "translate", "zfill"}
_PADDING_FILTERS = ("batch", "center", "pprint", "slice", "urlize", "wordwrap", "xmlattr")
# These make one string of whatever they are given, lists of lists too.
_TEXT_FILTERS = {
    "capitalize", "e", "escape", "forceescape", "format", "indent", "lower", "replace", "safe", "string",
    "striptags", "title", "tojson", "trim", "truncate", "upper", "urlencode", "wordcount",
}  # fmt: skip
_LONG_PERCENT_FIELD = re.compile(r"%[^a-zA-Z%]*(\*|\d{4})")
_LONG_BRACE_FIELD = re.compile(r"\{[^{}]*(:[^{}]*\d{4}|\{)")  # or a width that is a field itself


class TemplateRefusalError(TemplateRuntimeError):
    """The template called raise_exception: it refuses the conversation, and says why."""


class _Meter(threading.local):
    """What the rendering in this thread may still use up."""

    deadline = 0.0
    characters = 0

    def restart(self) -> None:
        self.deadline = time.monotonic() + MAX_SECONDS
        self.characters = MAX_CHARACTERS

    def tick(self) -> bool:
        if time.monotonic() > self.deadline:
            raise SecurityError(f"it runs for more than {MAX_SECONDS:.0f} s")
        return True

    def charge(self, characters: int) -> None:
        self.characters -= characters
        if self.characters < 0:
            raise SecurityError(f"it builds more than {MAX_CHARACTERS} characters")


class ChatTemplateEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox for one template. Each compilation and each rendering must begin with `meter.restart()`."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        extensions = [LoopControlExtension, _GenerationTag]
        self.meter = _Meter()
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=self._printable
        )
        for name in _PADDING_FILTERS:
            del self.filters[name]
        del self.globals["lipsum"]
        self.filters["tojson"] = _to_json
        self.filters = {name: self._metered(name, function) for name, function in self.filters.items()}
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self.globals["dict"] = _make_dict  # the type itself has methods that change their argument
        self.globals["namespace"] = _PlainNamespace

    def tick(self) -> bool:
        """Called at the start of each turn of a loop and each macro; stops a template that takes too long."""
        return self.meter.tick()

    def concat(self, parts: Iterable[str]) -> str:
        """Joins the output of a block or macro."""
        parts = list(parts)
        self.meter.charge(sum(map(len, parts)))
        return "".join(parts)

    def join_operands(self, *operands: Any) -> str:
        """The ``~`` operator."""
        return self.concat([str(self._printable(operand)) for operand in operands])

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Instrument().visit(super()._parse(source, name, filename))
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if attr in _PADDING_METHODS and isinstance(obj, (str, bytes)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        match operator, left, right:
            case "+", (str() | list() | tuple()), (str() | list() | tuple()):
                self.meter.charge(len(left) + len(right))
            case "*", (str() | list() | tuple() | bytes()), int():
                self.meter.charge(len(left) * max(right, 0))
            case "*", int(), (str() | list() | tuple() | bytes()):
                self.meter.charge(len(right) * max(left, 0))
            case "*", int(), int():
                _check_bits(left.bit_length() + right.bit_length())
            case "**", int(), int():
                _check_bits(left.bit_length() * abs(right))
            case "%", str() | bytes(), _:
                _check_format(str(left))
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(str(value.__self__).replace("{{", ""), _LONG_BRACE_FIELD)
        return wrapped

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", None)
        if isinstance(owner, str) and args:
            if name == "join":
                args = (__self._joinable(owner, args[0]),)
            elif name == "replace" and len(args) > 1:
                __self._check_replace(owner, args[0], args[1])
        __self.meter.tick()
        return __self._charged(super().call(__context, __obj, *args, **kwargs))

    def _metered(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that checks its arguments and charges for its result."""
        # Filters that ask for the context, the environment or such get it before the value.
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @wraps(function)
        def metered(*args: Any, **kwargs: Any) -> Any:
            self.meter.tick()
            value, rest = args[first], args[first + 1 :]
            if name in _TEXT_FILTERS:
                self._printable(value)
            if name == "join" and "attribute" not in kwargs and len(rest) < 2:
                separator = str(rest[0]) if rest else str(kwargs.get("d", ""))
                args = (*args[:first], self._joinable(separator, value), *rest)
            elif name == "replace" and len(rest) > 1:
                self._check_replace(str(value), str(rest[0]), str(rest[1]))
            elif name == "format":
                _check_format(str(value))
            elif name == "indent":
                width = rest[0] if rest else kwargs.get("width", 4)
                width = width if isinstance(width, int) else len(width)
                self.meter.charge((str(value).count("\n") + 1) * width)
            return self._charged(function(*args, **kwargs))

        return metered

    def _printable(self, value: Any) -> Any:
        """The value itself, once its text is known to be of bearable length."""
        if isinstance(value, (list, tuple, dict)):
            open_ends: list[Any] = [value]
            while open_ends:
                match open_ends.pop():
                    case str() as text:
                        self.meter.charge(len(text))
                    case list() | tuple() as items:
                        self.meter.tick()
                        self.meter.charge(8 * len(items))
                        open_ends.extend(items)
                    case dict() as entries:
                        self.meter.charge(8 * len(entries))
                        open_ends.extend(entries)
                        open_ends.extend(entries.values())
        return value

    def _charged(self, result: Any) -> Any:
        if isinstance(result, (str, list, tuple, dict)):
            self.meter.charge(len(result))
        return result

    def _joinable(self, separator: str, items: Iterable[Any]) -> list[Any]:
        found = list(items)
        self.meter.charge(sum(len(separator) + (len(i) if isinstance(i, str) else 1) for i in found))
        return found

    def _check_replace(self, text: str, old: str, new: str) -> None:
        self.meter.charge(len(text) + (text.count(old) if old else len(text) + 1) * len(new))


class _Instrument(NodeTransformer):
    """Puts a tick into every loop and macro, and sends ``~`` through the meter."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("tick", [], node.lineno), lineno=node.lineno))
        if node.test is not None:  # a loop whose test is never true has no turns
            node.test = nodes.And(_call("tick", [], node.lineno), node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("tick", [], node.lineno), lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("join_operands", node.nodes, node.lineno)


def _call(method: str, arguments: list[nodes.Expr], lineno: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), arguments, [], None, None, lineno=lineno)


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


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: str) -> None:
    raise TemplateRefusalError(str(message))


def _strftime_now(form: str) -> str:
    _check_format(form)
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is written, without the escapes for HTML that Jinja's own filter adds."""
    if isinstance(indent, int):
        indent = min(indent, 64)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _check_bits(bits: int) -> None:
    if bits > MAX_INTEGER_BITS:
        raise SecurityError(f"it computes a number of more than {MAX_INTEGER_BITS} bits")


def _check_format(form: str, long_field: re.Pattern[str] = _LONG_PERCENT_FIELD) -> None:
    if long_field.search(form):
        raise SecurityError("it formats a field of a thousand characters or more")
