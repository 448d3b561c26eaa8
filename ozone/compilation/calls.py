"""A step as data: calls of ops and of generated libraries, one after another, over numbered values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ozone.compilation.described import UndescribableError

# What a graph has beside ops: items of results, and arithmetic on sizes.
_PYTHON: dict[str, Callable[..., Any]] = {
    "getitem": operator.getitem,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "neg": operator.neg,
    "sym_max": torch.sym_max,
    "sym_min": torch.sym_min,
}
_NAMES = {function: name for name, function in _PYTHON.items()}
_TORCH_KINDS: dict[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}


@dataclass(frozen=True)
class Value:
    """A value that an argument stands for, by its number."""

    number: int


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        target: an op as ``aten::view.default``, a function of Python by its name, or the key of a library.
        library: whether it is a library, which takes tensors and returns a list of them, one for each result.
        args, kwargs: plain values, lists of them, and `Value`.
        results: the numbers of what it makes.
    """

    target: str
    library: bool
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    results: Sequence[int]


@dataclass(frozen=True)
class Calls:
    """All calls of a step.

    Attributes:
        constants: constants of the model, by their names in `Step.constants`, and their numbers.
        variables: inputs and sizes, by the names of `StepInputs` and `SIZES`, and their numbers.
        result: the number of the hidden states.
    """

    constants: Sequence[tuple[str, int]]
    variables: Sequence[tuple[str, int]]
    calls: Sequence[Call]
    result: int

    @property
    def libraries(self) -> frozenset[str]:
        """The keys of all libraries that are called."""
        return frozenset(call.target for call in self.calls if call.library)


def target_name(target: Any) -> str:
    """What `target_of` finds again. Raises: `UndescribableError` for what it would not."""
    if isinstance(target, torch._ops.OpOverload):
        return f"{target._schema.name}.{target._overloadname}"
    if target in _NAMES:
        return _NAMES[target]
    raise UndescribableError(f"{target} is neither an op nor arithmetic on sizes")


def target_of(name: str) -> Callable[..., Any]:
    """An op or a function of Python. Raises: `ValueError` where there is no such thing in this process."""
    if (function := _PYTHON.get(name)) is not None:
        return function
    namespace, _, rest = name.partition("::")
    op, _, overload = rest.rpartition(".")
    try:
        found = getattr(getattr(getattr(torch.ops, namespace), op), overload)
    except (AttributeError, RuntimeError):
        found = None
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"there is no op {name}")
    return found


def as_arguments(x: Any, number: Callable[[fx.Node], int]) -> Any:
    """An argument of a graph's node; its values become numbers."""
    if isinstance(x, fx.Node):
        return Value(number(x))
    if isinstance(x, list | tuple):
        return [as_arguments(item, number) for item in x]
    return x


def filled(x: Any, values: Sequence[Any]) -> Any:
    """An argument with values in place of their numbers."""
    if type(x) is Value:
        return values[x.number]
    return [filled(item, values) for item in x] if type(x) is list else x


def to_json(calls: Calls) -> dict[str, Any]:
    """As JSON has it. Raises: `UndescribableError` where an argument is of a kind that it does not have."""
    return {
        "constants": list(calls.constants),
        "variables": list(calls.variables),
        "result": calls.result,
        "calls": [
            {
                "target": call.target,
                "library": call.library,
                "args": [_plain(x) for x in call.args],
                "kwargs": {name: _plain(x) for name, x in call.kwargs.items()},
                "results": list(call.results),
            }
            for call in calls.calls
        ],
    }


def from_json(plain: Any) -> Calls:
    """What `to_json` returned.

    Raises: `ValueError`, `TypeError`, `KeyError` or `AttributeError` for anything else: for a value that is
        read before it is made, too, and for an op that is not there.
    """
    constants, variables = (
        [(str(name), int(number)) for name, number in plain[kind]] for kind in ("constants", "variables")
    )
    known = {number for _, number in (*constants, *variables)}
    calls = []
    for described in plain["calls"]:
        args = [_from_plain(x, known) for x in described["args"]]
        kwargs = {str(name): _from_plain(x, known) for name, x in described["kwargs"].items()}
        call = Call(
            str(described["target"]), bool(described["library"]), args, kwargs, tuple(described["results"])
        )
        if not call.library:
            target_of(call.target)
            if len(call.results) != 1:
                raise ValueError(f"{call.target} makes one value, not {len(call.results)}")
        known.update(map(int, call.results))
        calls.append(call)
    if plain["result"] not in known or known != set(range(len(known))):
        raise ValueError("its values are not those that its calls make")
    return Calls(constants, variables, calls, int(plain["result"]))


def _plain(x: Any) -> Any:
    if x is None or isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, list):
        return [_plain(item) for item in x]
    if isinstance(x, Value):
        return {"value": x.number}
    if isinstance(x, torch.device):
        return {"device": str(x)}
    for name, kind in _TORCH_KINDS.items():
        if isinstance(x, kind):
            return {name: str(x).removeprefix("torch.")}
    raise UndescribableError(f"an argument is a {type(x).__name__}")


def _from_plain(x: Any, known: set[int]) -> Any:
    if isinstance(x, list):
        return [_from_plain(item, known) for item in x]
    if not isinstance(x, dict):
        return x
    ((kind, content),) = x.items()
    if kind == "value":
        if content not in known:
            raise ValueError(f"value {content} is read before it is made")
        return Value(content)
    if kind == "device":
        return torch.device(content)
    found = getattr(torch, content)
    if not isinstance(found, _TORCH_KINDS[kind]):
        raise ValueError(f"{content} is no {kind}")
    return found
