"""What a token costs a model, against the models themselves."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ozone.bench.model_cost import (
    head_parameters,
    linear_parameters,
    operations,
)
from ozone.config.families import FAMILIES
from ozone.config.model import ModelConfig
from ozone.layers.linear import Linear
from ozone.models import build_model, step_weight_bytes

_LLAMA = ModelConfig(
    family="llama",
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    rms_norm_eps=1e-5,
    max_position=64,
    tie_word_embeddings=True,
    attention_scale=0.25,
    layer_types=("full_attention",) * 3,
)


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_linear_weights_are_those_of_the_model(family: str) -> None:
    row = next(row for row in FAMILIES if row.name == family)
    config = dataclasses.replace(
        _LLAMA, family=family, qk_norm=row.qk_norm, qkv_bias=row.qkv_bias, hidden_act=row.default_activation
    )
    model = build_model(config, dtype=torch.bfloat16, max_model_len=64)
    weights = [
        module.out_features * module.in_features for module in model.modules() if isinstance(module, Linear)
    ]
    assert sum(weights) == linear_parameters(config)


@pytest.mark.parametrize("tied", [True, False])
def test_a_step_reads_all_linears_and_the_head_once(tied: bool) -> None:
    config = dataclasses.replace(_LLAMA, tie_word_embeddings=tied)
    model = build_model(config, dtype=torch.float32, max_model_len=64)
    model.to_empty(device="cpu")
    tables = {id(table): table for table in (model.lm_head.table,)}.values()
    linears = [module for module in model.modules() if isinstance(module, Linear)]
    expected = sum(p.nbytes for module in (*linears, *tables) for p in module.parameters())
    assert step_weight_bytes(model) == expected
    assert expected >= 4 * (linear_parameters(config) + head_parameters(config))


def test_only_scored_tokens_pay_for_the_head() -> None:
    once = operations(_LLAMA, tokens=10, scored=1)
    assert once == 2 * (10 * linear_parameters(_LLAMA) + head_parameters(_LLAMA))
    assert operations(_LLAMA, tokens=10, scored=3) - once == 2 * 2 * head_parameters(_LLAMA)
