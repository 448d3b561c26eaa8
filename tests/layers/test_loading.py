"""Loading a model from a weight source: what is checked, and what the error says."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ozone.config.model import ModelConfig
from ozone.errors import ConfigError, ModelFileError
from ozone.layers.checkpoint import Checkpoint
from ozone.models import build_model, load_weights
from ozone.ops.linear import unpack_float
from ozone.quantization import decoders
from ozone.weights.source import RawTensor

CONFIG = ModelConfig(
    family="llama",
    vocab_size=40,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    max_position=64,
    tie_word_embeddings=False,
    attention_scale=8**-0.5,
    layer_types=("full_attention", "full_attention"),
)
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


class DictSource:
    """A weight source of float32 arrays."""

    path = "tiny.safetensors"

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors = {
            name: RawTensor(name, "F32", value.shape, value.reshape(-1).view(np.uint8))
            for name, value in tensors.items()
        }

    def names(self) -> Collection[str]:
        return self.tensors.keys()

    def get(self, name: str) -> RawTensor:
        try:
            return self.tensors[name]
        except KeyError:
            raise ModelFileError(f"{self.path}: tensor {name} is missing") from None

    def release(self) -> None:
        self.released = True


def source(config: ModelConfig = CONFIG) -> DictSource:
    hidden, inner = config.hidden_size, config.intermediate_size
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "lm_head.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(config.num_layers):
        for name, shape in {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (heads, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, heads),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    rng = np.random.default_rng(0)
    return DictSource({name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})


def load(
    weights: DictSource, config: ModelConfig = CONFIG, kv_cache_dtype: str = "auto", **options: Any
) -> torch.nn.Module:
    model = build_model(config, dtype=torch.float32, max_model_len=64, kv_cache_dtype=kv_cache_dtype)
    load_weights(model, weights, num_threads=2, **options)
    return model


def test_a_model_is_built_without_memory_and_loaded_whole() -> None:
    model = build_model(CONFIG, dtype=torch.bfloat16, max_model_len=64)
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}
    load_weights(model, source(), num_threads=2)
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cpu"}
    kinds = {p.dtype for name, p in model.named_parameters() if "norm" not in name}
    assert kinds == {torch.bfloat16}


def test_q_k_and_v_are_stacked_in_that_order() -> None:
    weights = source()
    qkv = load(weights).get_submodule("layers.1.self_attn.qkv_proj").weight
    parts = [
        weights.tensors[Q_PROJ.replace("q_proj", f"{part}_proj")].data.view(np.float32).reshape(-1, 32)
        for part in "qkv"
    ]
    np.testing.assert_array_equal(unpack_float(qkv, 64, 32).numpy(), np.concatenate(parts))


def test_a_tied_model_needs_no_head_and_has_one_table() -> None:
    weights = source()
    del weights.tensors["lm_head.weight"]
    model = load(weights, replace(CONFIG, tie_word_embeddings=True))
    assert model.lm_head.table is model.embed_tokens


def test_progress_counts_every_layer_once() -> None:
    calls: list[tuple[int, int]] = []
    load(source(), progress=lambda done, total: calls.append((done, total)))
    total = calls[0][1]
    assert calls == [(i, total) for i in range(1, total + 1)]


def test_loading_leaves_the_number_of_threads_alone() -> None:
    before = torch.get_num_threads()
    load(source())
    assert torch.get_num_threads() == before


def test_unknown_tensors_are_ignored() -> None:
    weights = source()
    weights.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = weights.tensors["model.norm.weight"]
    load(weights)


def test_a_missing_tensor_is_named() -> None:
    weights = source()
    del weights.tensors[Q_PROJ]
    with pytest.raises(ModelFileError, match="q_proj"):
        load(weights)


def test_a_wrong_shape_names_file_tensor_and_both_shapes() -> None:
    weights = source()
    weights.tensors[Q_PROJ] = replace(weights.tensors[Q_PROJ], shape=(16, 64))
    with pytest.raises(ModelFileError) as caught:
        load(weights)
    assert str(caught.value) == (
        f"tiny.safetensors: tensor {Q_PROJ} has shape [16, 64], but this model's config asks for [32, 32]"
    )


def test_a_wrong_config_takes_no_memory() -> None:
    """Tensors of these shapes would take 2 TB each."""
    config = replace(CONFIG, hidden_size=1 << 16, intermediate_size=1 << 22, vocab_size=1 << 22)
    with pytest.raises(ModelFileError, match="this model's config asks for"):
        load(source(), config)


def test_every_part_of_a_stack_is_checked_before_memory_is_taken() -> None:
    names, shapes = ["model.embed_tokens.weight", "lm_head.weight"], [(40, 32), (1 << 40, 32)]
    with pytest.raises(ModelFileError, match=r"lm_head.weight has shape \[40, 32\]"):
        Checkpoint(source(), decoders()).read(names, shapes, torch.float32)


@pytest.mark.parametrize(("kind", "rows", "bytes_per_row"), [("F32", 7, 192), ("Q8_0", 8, 51)])
def test_rows_come_in_chunks_of_whole_blocks(
    monkeypatch: pytest.MonkeyPatch, kind: str, rows: int, bytes_per_row: int
) -> None:
    """Two rows of 48 columns are three blocks of Q8_0, of 34 bytes each."""
    monkeypatch.setattr("ozone.layers.checkpoint._CHUNK", 150)
    weights = source()
    data = np.random.default_rng(0).integers(0, 60, rows * bytes_per_row, np.uint8)
    weights.tensors["table"] = RawTensor("table", kind, (rows, 48), data)
    checkpoint = Checkpoint(weights, decoders())
    (stored,) = checkpoint.open(["table"], [(rows, 48)])
    chunks = [(first, chunk.clone()) for first, chunk in stored.row_chunks(torch.float32)]
    assert [first for first, _ in chunks] == list(range(0, rows, 3 if kind == "F32" else 2))
    whole = torch.cat([chunk for _, chunk in chunks])
    assert torch.equal(whole, checkpoint.read(["table"], [(rows, 48)], torch.float32))


SCALE_NAMES = [
    ("self_attn.k_scale", "self_attn.v_scale"),
    ("self_attn.attn.k_scale", "self_attn.attn.v_scale"),
    ("self_attn.k_proj.k_scale", "self_attn.v_proj.v_scale"),
    ("self_attn.k_proj.output_scale", "self_attn.v_proj.output_scale"),
]


def with_scales(scales: dict[str, float]) -> DictSource:
    added = {f"model.layers.1.{name}": np.array([value], np.float32) for name, value in scales.items()}
    weights = source()
    weights.tensors |= DictSource(added).tensors
    return weights


@pytest.mark.parametrize("names", SCALE_NAMES)
def test_a_checkpoint_may_give_the_scales_of_an_fp8_cache(names: tuple[str, str]) -> None:
    model = load(with_scales(dict(zip(names, (0.25, 0.5), strict=True))), kv_cache_dtype="fp8")
    assert [layer.self_attn.attention.fp8_scales.tolist() for layer in model.layers] == [
        [1.0, 1.0],
        [0.25, 0.5],
    ]


def test_one_scale_may_be_for_keys_and_values() -> None:
    model = load(with_scales({"self_attn.kv_scale": 2.0}), kv_cache_dtype="fp8")
    assert model.layers[1].self_attn.attention.fp8_scales.tolist() == [2.0, 2.0]


def test_the_scales_do_not_matter_to_a_cache_of_another_type() -> None:
    model = load(with_scales({"self_attn.k_scale": 0.0}), kv_cache_dtype="int8")
    assert model.layers[1].self_attn.attention.fp8_scales.tolist() == [1.0, 1.0]


def test_a_scale_that_is_not_positive_is_a_mistake_of_the_file() -> None:
    with pytest.raises(ModelFileError, match=r"layers\.1\.self_attn\.k_scale is 0\.0, not positive"):
        load(with_scales({"self_attn.k_scale": 0.0}), kv_cache_dtype="fp8")


def test_rotary_tables_beyond_memory_name_the_flag() -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(CONFIG, dtype=torch.float32, max_model_len=1 << 31)
    assert str(caught.value) == (
        "--max-model-len 2147483648 needs rotary tables of more than 2 GB for this model: "
        "set it to at most 67108864"
    )


def test_a_type_that_is_not_numbers_names_the_ones_that_are() -> None:
    weights = source()
    weights.tensors[Q_PROJ] = replace(weights.tensors[Q_PROJ], dtype="F8_E4M3")
    with pytest.raises(ModelFileError, match=r"q_proj.weight is stored as F8_E4M3; readable .* F32, F16"):
        load(weights)


def test_too_few_bytes_are_an_error_and_not_a_crash() -> None:
    weights = source()
    weights.tensors[Q_PROJ] = replace(weights.tensors[Q_PROJ], data=np.zeros(100, np.uint8))
    with pytest.raises(ModelFileError, match=r"q_proj.weight of type F32 .* has 100 bytes"):
        load(weights)


def test_a_scheme_that_does_not_exist_is_named_beside_those_that_do() -> None:
    config = replace(CONFIG, quantization={"quant_method": "aqlm"})
    with pytest.raises(ModelFileError, match=r"scheme 'aqlm', which Ozone does not have; it has: .*gptq"):
        build_model(config, dtype=torch.float32, max_model_len=64)


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ModelFileError, match="'mamba' is not one of llama"):
        build_model(replace(CONFIG, family="mamba"), dtype=torch.float32, max_model_len=64)
