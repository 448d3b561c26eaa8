"""Checkpoints of ``compressed-tensors``: FP8, INT8 and 4-bit weights, as llm-compressor writes them.

`quantization_config` sorts linears into groups by name, by ``re:`` pattern or by class, leaves some out
(``ignore``), and says of each group how weights and inputs are quantized:
https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ozone.config.model import ModelConfig
from ozone.errors import ModelFileError, shown
from ozone.layers.linear import LinearMethod
from ozone.ops.choice import OpChoice
from ozone.quantization.compressed_tensors_layouts import EightBits, PackedInt4
from ozone.quantization.decoded import DecodedLinear
from ozone.quantization.fp8_linear import Fp8Linear
from ozone.quantization.int4_linear import Int4Linear
from ozone.quantization.int8_linear import Int8Linear
from ozone.quantization.merged import SchemeByName
from ozone.weights.fields import Fields

_WHERE = "the model's quantization_config"
_PACKED = "pack-quantized"
_PLAIN = ("float-quantized", "int-quantized", "naive-quantized")
_SUPPORTED = (
    "supported are FP8 weights (tensor, channel, or block of 128 x 128) with FP8 inputs (static by tensor, "
    "dynamic by token or by group of 128); INT8 weights (tensor, channel) with INT8 inputs (static by "
    "tensor, dynamic by token); INT4 weights (group, channel) in the format pack-quantized; FP8 and INT8 "
    "weights alone"
)
# Classes of a linear, in transformers or in vLLM.
_CLASSES = ("Linear", "LinearBase", "Module")
# What arguments may say; the last four are how values were found or are kept, not what they mean.
_ARGUMENT_KEYS = {
    *("num_bits", "type", "strategy", "group_size", "block_structure", "dynamic", "symmetric", "actorder"),
    *("observer", "observer_kwargs", "scale_dtype", "zp_dtype"),
}
_MAX_PATTERNS = 4096
_MAX_PATTERN_LENGTH = 1000


@dataclass(frozen=True)
class Target:
    """One entry of ``targets`` or ``ignore``."""

    text: str
    pattern: re.Pattern[str] | None

    @classmethod
    def of(cls, text: str, where: str) -> Target:
        if not text.startswith("re:"):
            return cls(text, None)
        try:
            return cls(text, re.compile(text.removeprefix("re:")))
        except (re.error, RecursionError, OverflowError):
            raise ModelFileError(f"{where}: {shown(text)} is not a regular expression") from None

    def matches(self, name: str) -> bool:
        if self.pattern is not None:
            return self.pattern.match(name) is not None
        return self.text == name or self.text in _CLASSES

    @property
    def rank(self) -> int:
        """Exact names count before patterns, patterns before classes."""
        return 2 if self.text in _CLASSES else 0 if self.pattern is None else 1


@dataclass(frozen=True)
class _Arguments:
    """How numbers are quantized: `QuantizationArgs` of compressed-tensors.

    Attributes:
        kind: ``fp8``, ``int8``, ``int4``, or another type and number of bits.
        strategy: what shares a scale: ``tensor``, ``channel``, ``token``, ``group``, ``block``.
        size: columns of a group.
    """

    kind: str
    strategy: str
    size: int | None
    dynamic: bool
    symmetric: bool
    ordered: bool

    def __str__(self) -> str:
        words = [
            "dynamic" if self.dynamic else "",
            "" if self.symmetric else "asymmetric",
            self.kind,
            f"by {self.strategy}",
            f"of {self.size}" if self.size else "",
        ]
        return " ".join(word for word in words if word)


class CompressedTensors(SchemeByName):
    """Chooses a method for each linear. `ModelFileError` for a config that asks for what Ozone has not."""

    def __init__(self, config: ModelConfig, op: OpChoice) -> None:
        super().__init__()
        fields = Fields(config.quantization or {}, _WHERE)
        for key in ("sparsity_config", "transform_config"):
            value = fields.mapping(key)
            if value and value.get("format") != "dense":
                raise fields.fail(key, "is not empty: only quantized weights are supported")
        self._op = op
        self._ignore = _targets(fields, "ignore")
        groups = fields.mapping("config_groups")
        if not groups:
            raise fields.fail("config_groups", "is missing: it says which linears are quantized, and how")
        self._groups: list[tuple[Target, LinearMethod]] = []
        for name, group in groups.items():
            where = f"{_WHERE}: config_groups[{shown(name)}]"
            if not isinstance(group, dict):
                raise ModelFileError(f"{where} is {shown(group)}, not an object")
            self._add_group(Fields(group, where), fields.text("format"))
        self._groups.sort(key=lambda entry: entry[0].rank)

    def method(self, name: str) -> LinearMethod:
        if any(target.matches(name) for target in self._ignore):
            return self.unquantized
        return next((method for target, method in self._groups if target.matches(name)), self.unquantized)

    def _add_group(self, group: Fields, common_format: str | None) -> None:
        if group.has("output_activations"):
            raise group.fail("output_activations", "is set: quantized outputs are not supported")
        weights, inputs = _arguments(group, "weights"), _arguments(group, "input_activations")
        layout = group.text("format") or common_format or "dense"
        if weights is None and inputs is None:
            method: LinearMethod | None = self.unquantized
        else:
            method = None if weights is None else _method(weights, inputs, layout, self._op)
        if method is None:
            asked = f"weights {weights or 'none'}, inputs {inputs or 'unquantized'}, format {shown(layout)}"
            raise ModelFileError(f"{group.where}: {asked}: not supported; {_SUPPORTED}")
        self._groups += [(target, method) for target in _targets(group, "targets")]


def _method(weights: _Arguments, inputs: _Arguments | None, layout: str, op: OpChoice) -> LinearMethod | None:
    """The method for numbers that are quantized and stored so, or None where there is none."""
    by = weights.strategy
    if weights.kind == "int4":
        if layout != _PACKED or inputs is not None or by not in ("tensor", "channel", "group"):
            return None
        return Int4Linear(
            PackedInt4(
                weights.size,
                per_row=by != "tensor",
                symmetric=weights.symmetric,
                ordered=weights.ordered,
            )
        )
    packed = layout == _PACKED and weights.kind == "int8" and by != "block"
    if weights.kind not in ("fp8", "int8") or not weights.symmetric or not (packed or layout in _PLAIN):
        return None
    if inputs is None:
        return DecodedLinear(EightBits(weights.kind, by, weights.size, packed=packed))
    if packed or by == "group" or inputs.kind != weights.kind or not inputs.symmetric:
        return None
    # One scale for all tokens of a step would make a request's results depend on the others'.
    dynamic = {"tensor": "token", "token": "token", "group": "group"}
    of_inputs = dynamic.get(inputs.strategy) if inputs.dynamic else {"tensor": "static"}.get(inputs.strategy)
    if of_inputs is None:
        return None
    if weights.kind == "fp8":
        return Fp8Linear(op, weights=by, inputs=of_inputs)  # type: ignore[arg-type]
    if by == "block" or of_inputs == "group":
        return None
    return Int8Linear(op, per_row=by == "channel", inputs=of_inputs)  # type: ignore[arg-type]


def _targets(fields: Fields, key: str) -> list[Target]:
    texts = fields.values.get(key)
    if texts is None and key == "ignore":
        return []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise fields.fail(key, f"is {shown(texts)}, not a list of names")
    if len(texts) > _MAX_PATTERNS or any(len(text) > _MAX_PATTERN_LENGTH for text in texts):
        raise fields.fail(key, f"is larger than {_MAX_PATTERNS} names of {_MAX_PATTERN_LENGTH} characters")
    return [Target.of(text, f"{fields.where}: {key}") for text in texts]


def _arguments(group: Fields, key: str) -> _Arguments | None:
    values = group.mapping(key)
    if values is None:
        return None
    fields = Fields(values, f"{group.where}.{key}")
    for name, value in values.items():
        if name not in _ARGUMENT_KEYS and value not in (None, False, [], {}):
            raise fields.fail(shown(name), "is not known, so neither is what it means to the arithmetic")
    strategy, size = _strategy(fields)
    dynamic = fields.flag("dynamic", False)
    if key == "weights" and (dynamic or strategy == "token"):
        raise fields.fail("dynamic" if dynamic else "strategy", "is one of activations, not of weights")
    kind = {"float": "fp", "int": "int"}[fields.choice("type", ("int", "float"), "int")]
    if size is not None and (size != 128 if kind == "fp" else size % 8):
        raise fields.fail("group_size", f"is {size}; supported: 128 for FP8, multiples of 8 for integers")
    order = values.get("actorder")
    if order not in (None, False, True, "group", "dynamic", "weight", "static"):
        raise fields.fail("actorder", f"is {shown(order)}; supported: group, weight, or none")
    return _Arguments(
        kind=f"{kind}{fields.size('num_bits', 8, 64)}",
        strategy=strategy,
        size=size,
        dynamic=dynamic,
        symmetric=fields.flag("symmetric", True),
        ordered=order in (True, "group", "dynamic"),
    )


def _strategy(fields: Fields) -> tuple[str, int | None]:
    """What shares a scale, and the columns of a group."""
    given = fields.values.get("group_size")
    size = None if given == -1 else fields.optional_size("group_size")
    inferred = "channel" if given == -1 else "tensor" if size is None else "group"
    strategy = fields.choice("strategy", ("tensor", "channel", "token", "group", "block"), inferred)
    if (strategy == "group") != (size is not None):
        raise fields.fail("group_size", f"is {shown(given)} with the strategy {strategy}")
    block = fields.values.get("block_structure")
    if strategy == "block" and block not in ([128, 128], "128x128"):
        raise fields.fail("block_structure", f"is {shown(block)}; supported: [128, 128]")
    return strategy, size
