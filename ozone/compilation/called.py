"""Running a step that is calls: one after another, over the model's constants and the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ozone.compilation.calls import Call, Calls, Value, filled, target_of
from ozone.compilation.libraries import Libraries
from ozone.compilation.step import Step, StepInputs, sizes_of
from ozone.engine.input_buffers import BatchCounts


class CalledStep:
    """A step as calls. One caller at a time."""

    def __init__(self, calls: Calls, step: Step, inputs: StepInputs, libraries: Libraries | None) -> None:
        """`libraries`: holds all that are called."""
        constants = dict(step.constants())
        self._inputs = inputs
        self._variables = calls.variables
        self._result = calls.result
        made = [number for call in calls.calls for number in call.results]
        count = len(calls.constants) + len(calls.variables) + len(made)
        self._values: list[Any] = [None] * count
        for name, number in calls.constants:
            self._values[number] = constants[name]
        dead = _last_uses(calls.calls, made, calls.result)
        self._calls = [(_bound(call, libraries), dead[place]) for place, call in enumerate(calls.calls)]

    def __call__(self, counts: BatchCounts) -> Tensor:
        """Run the step on what the inputs hold; hidden states (tokens, columns)."""
        known = {**sizes_of(counts), **self._inputs.of(counts)._asdict()}
        values = self._values.copy()
        for name, number in self._variables:
            values[number] = known[name]
        for call, dead in self._calls:
            call(values)
            for number in dead:
                values[number] = None
        hidden: Tensor = values[self._result]
        return hidden


def _bound(call: Call, libraries: Libraries | None) -> Callable[[list[Any]], None]:
    """A call that reads its arguments from values, and puts its results there."""
    if call.library:
        assert libraries is not None, "a library is called"
        return _library_call(call, libraries[call.target])
    return _op_call(call)


def _library_call(
    call: Call, function: Callable[[list[Tensor]], list[Tensor]]
) -> Callable[[list[Any]], None]:
    places = [argument.number for argument in call.args]

    def run(values: list[Any]) -> None:
        results = function([values[place] for place in places])
        for number, result in zip(call.results, results, strict=True):
            values[number] = result

    return run


def _op_call(call: Call) -> Callable[[list[Any]], None]:
    target = target_of(call.target)
    args, kwargs, (result,) = call.args, call.kwargs, call.results

    def run(values: list[Any]) -> None:
        named = {name: filled(x, values) for name, x in kwargs.items()}
        values[result] = target(*(filled(x, values) for x in args), **named)

    return run


def _last_uses(calls: Sequence[Call], made: Sequence[int], result: int) -> Mapping[int, list[int]]:
    """For each call by its place, which of the values that calls make nobody needs behind it."""
    last: dict[int, int] = {}
    for place, call in enumerate(calls):
        for number in (*call.results, *_read((call.args, call.kwargs))):
            last[number] = place
    dead: dict[int, list[int]] = {place: [] for place in range(len(calls))}
    for number in made:
        if number != result:
            dead[last[number]].append(number)
    return dead


def _read(x: Any) -> Iterator[int]:
    if isinstance(x, Value):
        yield x.number
    elif isinstance(x, Mapping):
        for item in x.values():
            yield from _read(item)
    elif isinstance(x, list | tuple):
        for item in x:
            yield from _read(item)
