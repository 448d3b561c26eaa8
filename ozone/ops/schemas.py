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
    OpSchema(
        "linear_int4",
        "(Tensor x, Tensor weight, Tensor scales, Tensor? zeros, Tensor? bias, Tensor? residual, int rows, "
        "int group_size) -> Tensor",
    ),
    OpSchema(
        "quantize_int8_group",
        "(Tensor x, int group) -> (Tensor, Tensor, Tensor)",
        custom_op="quantize",
    ),
    OpSchema("rms_norm", "(Tensor x, Tensor weight, float eps) -> Tensor", custom_op="rms_norm"),
    OpSchema(
        "fused_add_rms_norm",
        "(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
        custom_op="rms_norm",
    ),
    OpSchema(
        "rotary_embedding",
        "(Tensor q, Tensor k, Tensor positions, Tensor cos_sin) -> (Tensor, Tensor)",
        custom_op="rotary_embedding",
    ),
    OpSchema("silu_and_mul", "(Tensor x) -> Tensor", custom_op="silu_and_mul"),
    OpSchema("gelu_tanh_and_mul", "(Tensor x) -> Tensor", custom_op="gelu_and_mul"),
    OpSchema(
        "kv_write",
        "(Tensor k, Tensor v, Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor slot_mapping) -> Tensor",
        mutates=True,
    ),
    OpSchema(
        "attention",
        "(Tensor q, Tensor k_cache, Tensor v_cache, Tensor token, Tensor block_tables, "
        "Tensor query_start_loc, Tensor seq_lens, float scale, int? window, float? softcap) -> Tensor",
    ),
)

SCHEMAS: dict[str, OpSchema] = {schema.name: schema for schema in _SCHEMAS}
