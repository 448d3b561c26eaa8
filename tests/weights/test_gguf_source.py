"""GGUF tensors come out under Hugging Face's names and in its layout."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from weights_helpers import STRING, U32, gguf_model, gguf_tensor_row, llama_tensors

from ozone.config.families import FAMILIES
from ozone.errors import ModelFileError
from ozone.weights.gguf_config import read_gguf_config
from ozone.weights.gguf_file import GGUFFile
from ozone.weights.gguf_names import canonical_name
from ozone.weights.gguf_source import GGUFWeights
from ozone.weights.model_files import open_model

ROWS = {family.name: family for family in FAMILIES}


def opened(tmp_path: Path, data: bytes) -> GGUFWeights:
    (tmp_path / "model.gguf").write_bytes(data)
    file = GGUFFile(tmp_path / "model.gguf")
    return GGUFWeights(file, read_gguf_config(file))


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp's converter orders them: the two halves of each head alternate."""
    head_dim = weight.shape[0] // heads
    halves = weight.reshape(heads, 2, head_dim // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_every_tensor_name_of_a_family_maps_to_the_reference_s_hugging_face_name(family: str) -> None:
    architecture = getattr(gguf.MODEL_ARCH, family.upper())
    names = gguf.get_tensor_name_map(architecture, 3)
    layer = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    layer += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]
    if family in ("qwen3", "gemma3"):
        layer += ["self_attn.q_norm", "self_attn.k_norm"]
    if family == "gemma3":
        layer += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    wanted = ["model.embed_tokens", "model.norm", "lm_head", *(f"model.layers.2.{name}" for name in layer)]
    for name in wanted:
        stored = names.get_name(f"{name}.weight", try_suffixes=(".weight",))
        assert stored is not None
        if family == "gemma3" and name.endswith("post_attention_layernorm"):
            # The reference maps this ambiguous name to the feed-forward norm; its converter knows better.
            stored = "blk.2.post_attention_norm.weight"
        assert canonical_name(stored, ROWS[family]) == f"{name}.weight"


def test_an_unknown_tensor_keeps_its_name() -> None:
    for name in ("blk.01.attn_q.weight", "blk.0.mystery.weight", "blk.0.attn_q", "v.patch.weight"):
        assert canonical_name(name, ROWS["llama"]) == name


def test_query_and_key_rows_return_to_hugging_face_order(tmp_path: Path) -> None:
    tensors = llama_tensors()
    query, key = tensors["blk.1.attn_q.weight"], tensors["blk.1.attn_k.weight"]
    bias = np.arange(32, dtype=np.float32)
    tensors |= {
        "blk.1.attn_q.weight": interleaved(query, 4),
        "blk.1.attn_k.weight": interleaved(key, 2),
        "blk.1.attn_q.bias": interleaved(bias, 4),
    }
    weights = opened(tmp_path, gguf_model(tensors=tensors))
    prefix = "model.layers.1.self_attn."
    for name, expected in (("q_proj.weight", query), ("k_proj.weight", key), ("q_proj.bias", bias)):
        tensor = weights.get(prefix + name)
        assert (tensor.dtype, tensor.shape) == ("F32", expected.shape)
        assert np.array_equal(tensor.data.view("<f4").reshape(expected.shape), expected)


def test_only_the_rotated_part_of_a_head_is_reordered(tmp_path: Path) -> None:
    tensors = llama_tensors()
    stored = tensors["blk.0.attn_k.weight"].reshape(2, 8, 32)
    changes = {"llama.rope.dimension_count": (U32, 4)}
    weights = opened(tmp_path, gguf_model(changes, tensors))
    rows = weights.get("model.layers.0.self_attn.k_proj.weight").data.view("<f4").reshape(2, 8, 32)
    assert np.array_equal(rows, stored[:, [0, 2, 1, 3, 4, 5, 6, 7]])


def test_quantized_rows_move_as_whole_blocks(tmp_path: Path) -> None:
    """Reordering then quantizing equals quantizing then reordering: a row is whole blocks."""
    query = np.random.default_rng(1).standard_normal((32, 64)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q4_1
    path = tmp_path / "quantized.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_key_length(8)
    writer.add_value_length(8)
    writer.add_tensor("token_embd.weight", np.zeros((16, 64), np.float32))
    writer.add_tensor(
        "blk.0.attn_q.weight", gguf.quants.quantize(interleaved(query, 4), kind), raw_dtype=kind
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = open_model(str(path)).open_weights().get("model.layers.0.self_attn.q_proj.weight")
    assert (tensor.dtype, tensor.shape) == ("Q4_1", (32, 64))
    assert np.array_equal(tensor.data, gguf.quants.quantize(query, kind).reshape(-1))


def test_gemma_norms_lose_the_one_that_gguf_adds(tmp_path: Path) -> None:
    weight = np.linspace(-0.5, 0.5, 32, dtype=np.float32)
    tensors = llama_tensors() | {
        "blk.0.attn_norm.weight": weight + np.float32(1),
        "blk.0.attn_q_norm.weight": (weight[:8] + np.float32(1)).astype(np.float16),
        "output_norm.weight": weight + np.float32(1),
    }
    llama = "llama."
    gemma = {"general.architecture": (STRING, "gemma3")} | {
        "gemma3." + key.removeprefix(llama): (U32, value)
        for key, value in {
            "block_count": 2, "context_length": 128, "embedding_length": 32, "feed_forward_length": 64,
            "attention.head_count": 4, "attention.head_count_kv": 2,
        }.items()
    }  # fmt: skip
    weights = opened(tmp_path, gguf_model(gemma, tensors))
    for name, expected, tolerance in (
        ("model.norm.weight", weight, 1e-7),
        ("model.layers.0.input_layernorm.weight", weight, 1e-7),
        ("model.layers.0.self_attn.q_norm.weight", weight[:8], 1e-3),
    ):
        tensor = weights.get(name)
        assert tensor.dtype == "F32"
        assert np.allclose(tensor.data.view("<f4"), expected, atol=tolerance)
    # Gemma's q and k stand in Hugging Face's order already.
    query = weights.get("model.layers.0.self_attn.q_proj.weight").data
    assert query.tobytes() == tensors["blk.0.attn_q.weight"].tobytes()


def test_a_needed_tensor_of_an_unsupported_type_is_named_at_open(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(_with_first_type(gguf_model(), 20))
    with pytest.raises(ModelFileError, match=r"'token_embd\.weight' has the type IQ4_NL, .*Q4_1"):
        open_model(str(path)).open_weights()


def _with_first_type(data: bytes, type_id: int) -> bytes:
    before = gguf_tensor_row("token_embd.weight", (32, 16), 0, 0)
    after = gguf_tensor_row("token_embd.weight", (32, 16), type_id, 0)
    assert data.count(before) == 1
    return data.replace(before, after)


def test_rows_that_are_no_whole_heads_are_refused(tmp_path: Path) -> None:
    tensors = llama_tensors() | {"blk.0.attn_q.weight": np.zeros((31, 32), np.float32)}
    weights = opened(tmp_path, gguf_model(tensors=tensors))
    with pytest.raises(ModelFileError, match=r"shape \(31, 32\), not rows of 4 heads of 8"):
        weights.get("model.layers.0.self_attn.q_proj.weight")


def test_a_single_number_in_place_of_a_matrix_is_refused(tmp_path: Path) -> None:
    tensors = llama_tensors() | {"blk.0.attn_k.weight": np.float32(1).reshape(())}
    weights = opened(tmp_path, gguf_model(tensors=tensors))
    with pytest.raises(ModelFileError, match=r"shape \(\), not rows of 2 heads of 8"):
        weights.get("model.layers.0.self_attn.k_proj.weight")


def test_a_bias_in_blocks_is_refused(tmp_path: Path) -> None:
    row = gguf_tensor_row("blk.0.attn_q.bias", (32,), 0, 0)
    data = gguf_model(tensors={"blk.0.attn_q.bias": np.zeros(32, np.float32)} | llama_tensors())
    q4_0 = gguf_tensor_row("blk.0.attn_q.bias", (32,), 2, 0)
    weights = opened(tmp_path, data.replace(row, q4_0))
    with pytest.raises(ModelFileError, match=r"bias 'blk.0.attn_q.bias' is Q4_0; plain numbers"):
        weights.get("model.layers.0.self_attn.q_proj.bias")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    weights = opened(tmp_path, gguf_model())
    with pytest.raises(ModelFileError, match=r"the tensor lm_head\.weight is missing"):
        weights.get("lm_head.weight")


def test_rope_frequencies_are_no_weight(tmp_path: Path) -> None:
    tensors = llama_tensors() | {"rope_freqs.weight": np.ones(4, np.float32)}
    assert not any("rope" in name for name in opened(tmp_path, gguf_model(tensors=tensors)).names())


def test_tensors_whose_rows_stay_are_views_of_the_file(tmp_path: Path) -> None:
    weights = opened(tmp_path, gguf_model())
    assert not weights.get("model.layers.0.mlp.up_proj.weight").data.flags.owndata
