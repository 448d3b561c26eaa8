"""Loading quantized tensors that are not what the config says: one line that names the tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import quantized_formats as formats
import torch
from quantized_cases import FORMATS, tiny_llama
from safetensors.torch import load_file, save_file

from ozone.errors import ModelFileError
from ozone.models import build_model, load_weights
from ozone.weights.model_files import open_model

Q = "model.layers.1.self_attn.q_proj"
DOWN = "model.layers.0.mlp.down_proj"


def load(folder: Path) -> None:
    files = open_model(str(folder))
    model = build_model(files.config, dtype=torch.float32, max_model_len=64)
    load_weights(model, files.open_weights(), num_threads=2)


@pytest.mark.parametrize(
    ("name", "tensor", "value", "message"),
    [
        ("fp8_static", f"{Q}.weight", torch.zeros(160, 192), "is stored as F32, but .* asks for F8_E4M3"),
        ("fp8_static", f"{Q}.input_scale", torch.zeros(1), "is 0.0; the scale of activations is positive"),
        ("fp8_static", f"{Q}.weight_scale", torch.full((1,), torch.nan), "numbers that are not finite"),
        ("fp8_static", f"{Q}.input_scale", None, r"q_proj.input_scale is missing"),
        ("fp8_dynamic", f"{Q}.weight_scale", torch.ones(80, 1), r"shape \[80, 1\], .* \[160, 1\] or \[160\]"),
        ("fp8_block", f"{DOWN}.weight_scale", torch.ones(2, 2), r"asks for \[2, 3\]"),
        ("int8", f"{DOWN}.weight", torch.zeros(192, 320, dtype=torch.uint8), "stored as U8, .* for I8"),
        ("int4_g32", f"{DOWN}.weight_shape", torch.tensor([192, 319]), r"says \[192, 319\], .* \[192, 320\]"),
        ("int4_g32", f"{DOWN}.weight_packed", None, "weight_packed is missing"),
        ("gptq_g32", f"{Q}.qweight", torch.zeros(24, 152, dtype=torch.int32), r"asks for \[24, 160\]"),
        ("gptq_ordered", f"{Q}.g_idx", torch.full((192,), 7, dtype=torch.int32), "does not give every"),
        ("gptq_ordered", f"{Q}.g_idx", torch.arange(192, dtype=torch.int32) - 1, "does not give every"),
        ("awq_g32", f"{Q}.qzeros", torch.zeros(6, 19, dtype=torch.int32), r"asks for \[6, 20\]"),
        ("awq_g32", f"{Q}.scales", torch.full((6, 160), torch.inf), "numbers that are not finite"),
    ],
)  # fmt: skip
def test_a_wrong_tensor_is_named(
    name: str, tensor: str, value: torch.Tensor | None, message: str, tmp_path: Path
) -> None:
    formats.save_quantized(tiny_llama(), tmp_path, FORMATS[name])
    load(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.pop(tensor) is not None
    if value is not None:
        tensors[tensor] = value
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match=message) as caught:
        load(tmp_path)
    assert tensor.rpartition(".")[0] in str(caught.value)
    assert "\n" not in str(caught.value)
