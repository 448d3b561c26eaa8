"""The quantized formats that tests load, and the tiny model in them."""

from __future__ import annotations

import math
from typing import Any

import quantized_formats as formats
import torch
from quantized_formats import Format, awq, compressed_tensors, gptq
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

# No width is a multiple of 128, and q, k and v are not whole panels of 48 rows.
SHAPE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 192,
    "intermediate_size": 320,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 40,
    "max_position_embeddings": 256,
    "attn_implementation": "eager",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FLOAT: dict[str, Any] = {"type": "float", "num_bits": 8, "symmetric": True}
INT: dict[str, Any] = {"type": "int", "num_bits": 8, "symmetric": True}
INT4: dict[str, Any] = {"type": "int", "num_bits": 4}
TENSOR: dict[str, Any] = {"strategy": "tensor", "dynamic": False}
CHANNEL: dict[str, Any] = {"strategy": "channel", "dynamic": False}
TOKEN: dict[str, Any] = {"strategy": "token", "dynamic": True}


def _group(size: int) -> dict[str, Any]:
    return {"strategy": "group", "group_size": size}


def _one_scale_per_input(name: str) -> float:
    """What llm-compressor finds for linears that read the same: the same."""
    return {"q_proj": 0.02, "k_proj": 0.02, "v_proj": 0.02, "gate_proj": 0.03, "up_proj": 0.03}.get(
        name.rpartition(".")[2], 0.025
    )


def _scales_of_their_own(name: str) -> float:
    return 0.01 + 0.005 * (sum(name.encode()) % 7)


BLOCK = {"strategy": "block", "block_structure": [128, 128], "dynamic": False}
GROUP_INPUTS = {"strategy": "group", "group_size": 128, "dynamic": True}
MIXED = ("lm_head", "0.mlp.down_proj", "1.self_attn.v_proj")
MIXED_NAMES = ("lm_head", "model.layers.0.mlp.down_proj", r"re:.*layers\.1\.self_attn\.v_proj$")

FORMATS: dict[str, Format] = {
    # The kind of RedHatAI/Llama-3.2-1B-FP8.
    "fp8_static": compressed_tensors(
        "float-quantized",
        FLOAT | TENSOR,
        FLOAT | TENSOR,
        input_scale=_one_scale_per_input,
        scale_type=torch.bfloat16,
    ),
    "fp8_static_apart": compressed_tensors(
        "float-quantized", FLOAT | TENSOR, FLOAT | TENSOR, input_scale=_scales_of_their_own
    ),
    "fp8_dynamic": compressed_tensors("float-quantized", FLOAT | CHANNEL, FLOAT | TOKEN),
    "fp8_dynamic_tensor": compressed_tensors("naive-quantized", FLOAT | TENSOR, FLOAT | TOKEN),
    "fp8_block": compressed_tensors("float-quantized", FLOAT | BLOCK, FLOAT | GROUP_INPUTS),
    "fp8_channel_by_group": compressed_tensors("float-quantized", FLOAT | CHANNEL, FLOAT | GROUP_INPUTS),
    "fp8_mixed": compressed_tensors(
        "float-quantized", FLOAT | CHANNEL, FLOAT | TOKEN, ignored=MIXED, ignore=MIXED_NAMES
    ),
    "fp8_weights_alone": compressed_tensors("naive-quantized", FLOAT | CHANNEL),
    "int8": compressed_tensors("int-quantized", INT | CHANNEL, INT | TOKEN),
    "int8_tensor": compressed_tensors("int-quantized", INT | TENSOR, INT | TOKEN),
    "int8_static": compressed_tensors(
        "int-quantized", INT | CHANNEL, INT | TENSOR, input_scale=_one_scale_per_input
    ),
    "int8_static_apart": compressed_tensors(
        "int-quantized", INT | CHANNEL, INT | TENSOR, input_scale=_scales_of_their_own
    ),
    "int8_weights_alone": compressed_tensors("pack-quantized", INT | _group(32)),
    "int4_g32": compressed_tensors("pack-quantized", INT4 | _group(32) | {"symmetric": True}),
    "int4_g16_asymmetric": compressed_tensors(
        "pack-quantized", INT4 | _group(16) | {"symmetric": False}, scale_type=torch.bfloat16
    ),
    "int4_channel": compressed_tensors("pack-quantized", INT4 | CHANNEL | {"symmetric": True}),
    "int4_channel_asymmetric": compressed_tensors("pack-quantized", INT4 | CHANNEL | {"symmetric": False}),
    "fp8_of_deepseek": formats.fp8_blocks(["lm_head", "model.layers.1.mlp"], ("lm_head", *(
        f"1.mlp.{part}_proj" for part in ("gate", "up", "down")
    ))),
    "fp8_tensor_static": formats.fp8_tensors("static", _one_scale_per_input),
    "fp8_tensor_dynamic": formats.fp8_tensors("dynamic"),
    "gptq_g32": gptq(32),
    "gptq_g128_short_groups": gptq(128),
    "gptq_g40": gptq(40),
    "gptq_channel": gptq(-1),
    "gptq_asymmetric": gptq(64, symmetric=False),
    "gptq_v2_asymmetric": gptq(64, symmetric=False, version=2),
    "gptq_without_index": gptq(64, stored_index=False),
    # Some tools write zero points of the second version and call it the first.
    "gptq_v2_called_v1": gptq(32, version=2, says={"checkpoint_format": "gptq"}),
    "gptq_ordered": gptq(32, ordered=True),
    "gptq_ordered_short_groups": gptq(128, ordered=True, symmetric=False),
    "gptq_ordered_apart": gptq(64, ordered=True, same_order=False),
    "awq_g32": awq(32),
    "awq_g64": awq(64, skipped=["k_proj"]),
    "awq_without_zero_points": awq(32, zero_point=False),
}  # fmt: skip


def tiny_llama(**changes: Any) -> PreTrainedModel:
    torch.manual_seed(11)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(1.0, 0.3)
            elif parameter.dim() == 1:
                parameter.normal_(0.0, 0.5)
            else:
                parameter.normal_(0.0, 1.0 / math.sqrt(parameter.shape[1]))
    return model
