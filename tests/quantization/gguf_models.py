"""A tiny llama of random blocks: as a GGUF file, and as transformers computes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray
from tiny_checkpoints import gguf_name
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ozone.ops.quantize import quantize_int8_group

HEADS, KV_HEADS = 4, 2
# Rows of q, k and v are no multiples of a panel; columns are, of the largest block.
CONFIG = LlamaConfig(
    vocab_size=130,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=2,
    num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS,
    head_dim=64,
    max_position_embeddings=256,
    attention_bias=True,
    attn_implementation="eager",
)

# Where a block has float16 numbers: scales, and minimums.
_HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2)}
_HALVES["Q6_K"] = (208,)


def random_blocks(kind: str, rows: int, cols: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blocks of numbers around zero whose squares sum up to about 1 in a row: (rows, bytes)."""
    size, nbytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    blocks = rng.integers(0, 256, (rows * cols // size, nbytes), dtype=np.uint8)
    # Minimums are about minus half of the largest weight, and have a sign of their own in the K types.
    middle = {"Q4_1": -7.5, "Q5_1": -15.5, "Q2_K": 1.5, "Q4_K": 7.5, "Q5_K": 15.5}.get(kind, 0.0)

    def fill(scale: float) -> NDArray[np.float32]:
        for at, factor in zip(_HALVES.get(kind, (0,)), (1.0, middle), strict=False):
            blocks[:, at : at + 2] = np.array([scale * factor], np.float16).view(np.uint8)
        return quants.dequantize(blocks.reshape(rows, -1), GGMLQuantizationType[kind])

    fill(cols**-0.5 / float(fill(1.0).std()))
    return blocks.reshape(rows, -1)


def save_random_gguf(path: Path, type_of: Callable[[str], str], *, tied: bool = False) -> PreTrainedModel:
    """Write the model, each matrix in the type that `type_of` says for its GGUF name, which may be ``F16``.
    Returns it with the numbers in the file.
    """
    config = LlamaConfig.from_dict({**CONFIG.to_dict(), "tie_word_embeddings": tied})
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    for key, parameter in model.named_parameters():
        name = gguf_name(key, "llama")
        kind = type_of(name) if parameter.dim() == 2 else "F32"
        with torch.no_grad():
            if kind in ("F32", "F16"):
                parameter.normal_(0.0, 0.1).add_(1.0 if "norm" in key else 0.0)
                stored = parameter.numpy().astype(np.float32 if kind == "F32" else np.float16)
                parameter.copy_(torch.from_numpy(stored.astype(np.float32)))
            else:
                stored = random_blocks(kind, *parameter.shape, rng)
                parameter.copy_(torch.from_numpy(quants.dequantize(stored, GGMLQuantizationType[kind])))
        if "q_proj" in key or "k_proj" in key:
            heads = HEADS if "q_proj" in key else KV_HEADS
            rows = stored.reshape(heads, 2, -1, *stored.shape[1:])
            stored = np.ascontiguousarray(rows.swapaxes(1, 2).reshape(stored.shape))
        raw = None if kind in ("F32", "F16") else GGMLQuantizationType[kind]
        writer.add_tensor(name, stored, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def with_int8_inputs(model: PreTrainedModel, is_native: Callable[[str], bool]) -> PreTrainedModel:
    """The same model, with the inputs of the linears of those GGUF names rounded as a native linear rounds
    them.
    """

    def rounded(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (x,) = inputs
        integers, scale, _sums = quantize_int8_group(x.flatten(0, -2), 32)
        return ((integers * scale.repeat_interleave(32, 1)).view(x.shape),)

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and is_native(gguf_name(f"{name}.weight", "llama")):
            module.register_forward_pre_hook(rounded)
    return model
