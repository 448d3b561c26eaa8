"""The vocabulary as data: every op that a model, a pass or a kernel may name. Torch-free.

One row per op. A signature is written in PyTorch's schema language without the op's name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OpSchema:
    """What the world may know about an op before its code is imported.

    Attributes:
        name: the op is ``torch.ops.ozone.<name>``.
        signature: arguments and results in PyTorch's schema language.
        custom_op: the custom op (see `ozone.config.custom_ops`) that decides whether this op is one node or
            runs as its PyTorch reference. None: it is always one node.
        mutates: the op writes to an argument.
    """

    name: str
    signature: str
    custom_op: str | None = None
    mutates: bool = False

    @property
    def arguments(self) -> list[str]:
        """Each argument as the signature has it."""
        return self.signature[1 : self.signature.index(") -> ")].split(", ")

    @property
    def results(self) -> list[str]:
        """The type of each result."""
        return self.signature.partition(") -> ")[2].strip("()").split(", ")


_SCHEMAS: tuple[OpSchema, ...] = (
    OpSchema("embedding", "(Tensor token_ids, Tensor weight, float scale, int cols) -> Tensor"),
    OpSchema("linear", "(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int rows) -> Tensor"),
    OpSchema(
        "linear_int8",
        "(Tensor x, Tensor x_scale, Tensor weight, Tensor weight_scale, Tensor? bias, Tensor? residual, "
        "int rows, ScalarType dtype) -> Tensor",
    ),
    OpSchema("logits", "(Tensor x, Tensor weight, float? softcap, int rows) -> Tensor"),
    OpSchema(
        "linear_fp8",
        "(Tensor x, Tensor x_scale, Tensor weight, Tensor weight_scale, Tensor? bias, Tensor? residual, "
        "int rows, ScalarType dtype) -> Tensor",
    ),
    OpSchema("gather_columns", "(Tensor x, Tensor order) -> Tensor"),
    OpSchema(
        "linear_int4",
        "(Tensor x, Tensor weight, Tensor scales, Tensor? zeros, Tensor? bias, Tensor? residual, int rows, "
        "int group_size) -> Tensor",
    ),
    OpSchema(
        "linear_gguf",
        "(Tensor x, Tensor x_scale, Tensor x_sums, Tensor weight, int[] segments, Tensor? bias, "
        "Tensor? residual, int rows, ScalarType dtype) -> Tensor",
    ),
    OpSchema(
        "logits_gguf",
        "(Tensor x, Tensor x_scale, Tensor x_sums, Tensor weight, int[] segments, float? softcap, int rows) "
        "-> Tensor",
    ),
    OpSchema(
        "embedding_gguf",
        "(Tensor token_ids, Tensor weight, int[] segments, float scale, int cols, ScalarType dtype) "
        "-> Tensor",
    ),
    OpSchema("rms_norm", "(Tensor x, Tensor weight, float eps) -> Tensor", custom_op="rms_norm"),
    OpSchema(
        "fused_add_rms_norm",
        "(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
        custom_op="rms_norm",
    ),
    OpSchema(
        "rotary_embedding",
        "(Tensor q, Tensor k, Tensor positions, Tensor cos_sin, bool interleaved) -> (Tensor, Tensor)",
        custom_op="rotary_embedding",
    ),
    OpSchema(
        "qk_norm_rotary_embedding",
        "(Tensor q, Tensor k, Tensor q_weight, Tensor k_weight, float eps, Tensor positions, Tensor cos_sin, "
        "bool interleaved) -> (Tensor, Tensor)",
    ),
    OpSchema("silu_and_mul", "(Tensor x) -> Tensor", custom_op="silu_and_mul"),
    OpSchema("gelu_tanh_and_mul", "(Tensor x) -> Tensor", custom_op="gelu_and_mul"),
    # Goes into the norm behind it, wherever either of them runs.
    OpSchema("add", "(Tensor x, Tensor y) -> Tensor", custom_op="rms_norm"),
    OpSchema("scale", "(Tensor x, float factor) -> Tensor"),
    OpSchema("softcap", "(Tensor x, float cap) -> Tensor"),
    OpSchema("quantize_fp8_static", "(Tensor x, Tensor x_scale) -> Tensor", custom_op="quantize"),
    OpSchema("quantize_fp8_token", "(Tensor x) -> (Tensor, Tensor)", custom_op="quantize"),
    OpSchema("quantize_fp8_group", "(Tensor x, int group) -> (Tensor, Tensor)", custom_op="quantize"),
    OpSchema("quantize_int8_static", "(Tensor x, Tensor x_scale) -> Tensor", custom_op="quantize"),
    OpSchema("quantize_int8_token", "(Tensor x) -> (Tensor, Tensor)", custom_op="quantize"),
    OpSchema(
        "quantize_int8_group", "(Tensor x, int group) -> (Tensor, Tensor, Tensor)", custom_op="quantize"
    ),
    OpSchema("pad", "(Tensor x, int multiple) -> Tensor", custom_op="pad"),
    OpSchema(
        "kv_write",
        "(Tensor k, Tensor v, Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor(c!)? kv_scales, "
        "Tensor slot_mapping) -> Tensor",
        mutates=True,
    ),
    OpSchema(
        "rotary_embedding_kv_write",
        "(Tensor q, Tensor k, Tensor v, Tensor positions, Tensor cos_sin, bool interleaved, "
        "Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor(c!)? kv_scales, Tensor slot_mapping) "
        "-> (Tensor, Tensor)",
        mutates=True,
    ),
    OpSchema(
        "qk_norm_rotary_embedding_kv_write",
        "(Tensor q, Tensor k, Tensor v, Tensor q_weight, Tensor k_weight, float eps, Tensor positions, "
        "Tensor cos_sin, bool interleaved, Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor(c!)? kv_scales, "
        "Tensor slot_mapping) -> (Tensor, Tensor)",
        mutates=True,
    ),
    OpSchema(
        "attention",
        "(Tensor q, Tensor k_cache, Tensor v_cache, Tensor? kv_scales, Tensor token, Tensor block_tables, "
        "Tensor query_start_loc, Tensor seq_lens, float scale, int? window, float? softcap) -> Tensor",
    ),
)

SCHEMAS: dict[str, OpSchema] = {schema.name: schema for schema in _SCHEMAS}


def _chain(name: str, parts: tuple[str, ...]) -> OpSchema:
    """Ops one after another as one: each takes the first result of the one before, and replaces it."""
    first, *others = (SCHEMAS[part] for part in parts)
    arguments, results = first.arguments, first.results
    for other in others:
        arguments, results = arguments + other.arguments[1:], other.results + results[1:]
    names = [argument.split()[1] for argument in arguments]
    assert len(set(names)) == len(names), f"{name} has arguments of the same name: {names}"
    returned = results[0] if len(results) == 1 else "(" + ", ".join(results) + ")"
    return OpSchema(name, f"({', '.join(arguments)}) -> {returned}")


# The quantizations of activations.
QUANTIZATIONS = tuple(name for name in SCHEMAS if name.startswith("quantize_"))
_NORMS = ("rms_norm", "fused_add_rms_norm")
_QUANTIZED = (*_NORMS, "silu_and_mul", "gelu_tanh_and_mul", "attention")

# Fused ops by name: the ops that they are made of, in order (`ozone/ops/fused.py`).
FUSED: dict[str, tuple[str, ...]] = {
    "_".join(parts): parts
    for parts in (
        *((source, quantization) for source in _QUANTIZED for quantization in QUANTIZATIONS),
        *((norm, "pad") for norm in _NORMS),
        *((norm, "pad", "quantize_fp8_group") for norm in _NORMS),
    )
}
SCHEMAS |= {name: _chain(name, parts) for name, parts in FUSED.items()}
