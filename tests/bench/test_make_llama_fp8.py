"""``bench/make_llama_fp8.py``: the checkpoint that it writes is what it says, and runs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors import safe_open

from ozone import LLM, SamplingParams

SCRIPT = Path(__file__).parents[2] / "bench" / "make_llama_fp8.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_llama_fp8", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoint(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama-fp8")
    sizes = {"hidden": 128, "intermediate": 256, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 32}
    geometry = script.Geometry(**sizes, vocabulary=50000, context=512)
    script.write_checkpoint(folder, geometry, seed=0)
    return folder


def test_the_geometry_is_that_of_llama_3_2_1b(script: ModuleType) -> None:
    geometry = script.Geometry()
    by_name = {tensor.name: tensor for tensor in script.tensors(geometry)}
    layer = {
        name.removeprefix("model.layers.15."): tensor.shape
        for name, tensor in by_name.items()
        if name.startswith("model.layers.15.") and name.endswith("proj.weight")
    }
    assert layer == {
        "self_attn.q_proj.weight": (2048, 2048),
        "self_attn.k_proj.weight": (512, 2048),
        "self_attn.v_proj.weight": (512, 2048),
        "self_attn.o_proj.weight": (2048, 2048),
        "mlp.gate_proj.weight": (8192, 2048),
        "mlp.up_proj.weight": (8192, 2048),
        "mlp.down_proj.weight": (2048, 8192),
    }
    assert by_name["model.embed_tokens.weight"].shape == (128256, 2048)
    assert "model.layers.16.input_layernorm.weight" not in by_name
    assert "lm_head.weight" not in by_name
    assert script.config(geometry)["quantization_config"]["format"] == "float-quantized"


def test_the_reference_library_reads_the_weights(checkpoint: Path) -> None:
    with safe_open(checkpoint / "model.safetensors", framework="pt") as file:
        weight = file.get_tensor("model.layers.1.mlp.down_proj.weight").float()
        scale = file.get_tensor("model.layers.1.mlp.down_proj.weight_scale").float()
        embedding = file.get_tensor("model.embed_tokens.weight").float()
        assert file.get_tensor("model.norm.weight").float().eq(1).all()
    assert weight.shape == (128, 256) and weight.abs().max() <= 448
    assert float((weight * scale).std()) == pytest.approx(0.02, rel=0.05)
    assert float(embedding.std()) == pytest.approx(0.02, rel=0.05)


def test_weights_on_the_grid_of_e4m3_are_the_nearest(script: ModuleType) -> None:
    import torch

    codes, _ = script._fp8_table()
    normal = script._normal_table()
    unit = 448.0 / np.abs(normal).max()
    expected = torch.from_numpy(normal * np.float32(unit)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert (codes == expected).mean() > 0.999  # ties apart


def test_it_answers(checkpoint: Path) -> None:
    llm = LLM(str(checkpoint), optimization_level=1, kv_cache_memory_bytes=1 << 22, num_threads=1)
    try:
        (output,) = llm.generate(["The capital of France is"], SamplingParams(temperature=0, max_tokens=4))
        assert len(output.outputs[0].token_ids) <= 4
        assert (
            output.prompt_token_ids[0] == json.loads((checkpoint / "config.json").read_text())["bos_token_id"]
        )
    finally:
        llm.shutdown()
