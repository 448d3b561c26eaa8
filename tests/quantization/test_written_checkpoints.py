"""`ozone quantize`: what it writes is what compressed-tensors, transformers and Ozone itself read."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from model_harness import make_requests, open_runner, step
from quantized_formats import read_emulation
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ozone.cli.main import run
from ozone.entrypoints.quantize import Request, quantize
from ozone.errors import ConfigError, ModelFileError
from ozone.quantization.recipes import RECIPES

SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
TEXT = "the cat sat on the mat and looked at the moon, which looked back. " * 40


def _save_model(folder: Path, **changes: Any) -> LlamaForCausalLM:
    """A tiny model whose inputs have a few large columns, as those of real ones have, and its tokenizer."""
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(1.0, 0.3)
                parameter[::37] *= 5
            else:
                parameter.normal_(0.0, 1.0 / math.sqrt(parameter.shape[-1]))
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return model


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    _save_model(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(TEXT)
    return path


def _quantize(source: Path, out: Path, scheme: str, text: Path, **options: Any) -> dict[str, Any]:
    recipe = options.pop("recipe", RECIPES[scheme])
    options = {"calibration": text, "distill_steps": 2, "written_tokens": 0, **options}
    return quantize(Request(str(source), out, recipe, **options))


def _our_logits(folder: Path) -> tuple[np.ndarray, torch.Tensor]:
    runner = open_runner(folder)
    (request,) = make_requests(runner.vocab_size, [50])
    step(runner, [(request, 50)])
    return request.logits[0], torch.tensor([request.token_ids])


QUANTIZING = [name for name in RECIPES if name != "bf16"]


@pytest.mark.parametrize("scheme", QUANTIZING)
def test_transformers_loads_what_is_written_and_computes_the_same(
    scheme: str, source: Path, text: Path, tmp_path: Path
) -> None:
    _quantize(source, tmp_path / "out", scheme, text)
    ours, token_ids = _our_logits(tmp_path / "out")
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.inference_mode():
        theirs = reference(token_ids).logits[0].numpy()
    errors = np.sqrt(np.square(ours - theirs).mean(1)) / theirs.std()
    if scheme == "int8":
        # The package takes a token's largest number to 127.5, vLLM and Ozone to 127: each input rounds anew.
        assert errors.max() < 0.2
    else:
        # Float noise, until an input lies so near the middle of two numbers that it is rounded to the other
        # one, which the tokens after it see too.
        assert np.quantile(errors, 0.25) < 1e-4
        assert errors.max() < 0.1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.decode(tokenizer.encode("the moon")) == "the moon"


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scheme", QUANTIZING)
def test_the_package_reads_the_same_numbers_and_would_write_the_same_bytes(
    scheme: str, symmetric: bool, source: Path, text: Path, tmp_path: Path
) -> None:
    recipe = RECIPES[scheme]
    if not symmetric:
        if recipe.kind != "int4":
            pytest.skip("has no zero points")
        recipe = type(recipe)(**{**recipe.__dict__, "symmetric": False})
    _quantize(source, tmp_path / "out", scheme, text, recipe=recipe)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    group = QuantizationScheme.model_validate(config["config_groups"]["group_0"])
    compressor = BaseCompressor.get_value_from_registry(config["format"])
    original = load_file(source / "model.safetensors")
    for name in ("model.layers.1.self_attn.k_proj", "model.layers.0.mlp.down_proj"):
        state = {
            key.removeprefix(f"{name}."): value
            for key, value in tensors.items()
            if key.startswith(f"{name}.")
        }
        meant = compressor.decompress(dict(state), group)
        error = meant["weight"] - original[f"{name}.weight"]
        assert (
            error.square().mean().sqrt()
            < (0.4 if recipe.kind == "int4" else 0.05) * original[f"{name}.weight"].std()
        )
        again = compressor.compress(meant, group)
        for part in ("weight", "weight_packed", "weight_shape", "weight_zero_point"):
            if part in state:
                assert torch.equal(again[part].to(torch.float64), state[part].to(torch.float64)), (name, part)


@pytest.mark.parametrize("scheme", ["fp8-static", "fp8-block", "int8-static", "int4-g32"])
def test_ozone_computes_what_the_dequantized_model_does(scheme: str, text: Path, tmp_path: Path) -> None:
    """Also where widths are no multiples of 128."""
    model = _save_model(tmp_path / "source", hidden_size=96, intermediate_size=160, head_dim=32)
    _quantize(tmp_path / "source", tmp_path / "out", scheme, text)
    reference = read_emulation(tmp_path / "out", model)
    ours, token_ids = _our_logits(tmp_path / "out")
    with torch.inference_mode():
        theirs = reference(token_ids).logits[0].numpy()
    assert np.sqrt(np.square(ours - theirs).mean()) < 0.01 * theirs.std()


@pytest.mark.parametrize("scheme", ["fp8-static", "fp8-block", "int4-g32", "int4-channel"])
def test_error_feedback_serves_the_inputs_better_than_rounding(scheme: str) -> None:
    """What the columns that matter lose is made up for by others."""
    recipe = RECIPES[scheme]
    torch.manual_seed(0)
    inputs = torch.randn(500, 64) @ torch.randn(64, 64)
    weight = torch.randn(32, 64)

    def error(seen: torch.Tensor) -> float:
        assert recipe.observer is not None
        observer = recipe.observer(64)
        observer.see(seen)
        _, meant = recipe.encode(weight, "F32", observer)
        return float((inputs @ (weight - meant).t()).square().mean())

    assert error(inputs) < 0.7 * error(torch.eye(64))


@pytest.mark.parametrize("symmetric", [True, False])
def test_distillation_changes_scales_and_norms_alone(
    symmetric: bool, source: Path, text: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPES["int4-g32"], symmetric=symmetric)
    for steps in (0, 5):
        _quantize(source, tmp_path / str(steps), "int4-g32", text, recipe=recipe, distill_steps=steps)
    before, after = (load_file(tmp_path / str(steps) / "model.safetensors") for steps in (0, 5))
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {name for name in before if name.endswith("weight_scale") or "norm" in name}
    for name in changed:
        torch.testing.assert_close(after[name], before[name], rtol=0.1, atol=0.05)


def test_what_is_not_quantized_stays_as_it_is(source: Path, text: Path, tmp_path: Path) -> None:
    summary = _quantize(
        source,
        tmp_path / "out",
        "fp8-dynamic",
        text,
        ignore=("re:.*down_proj", "model.layers.0.self_attn.q_proj"),
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out"))
    names = [
        "model.layers.1.mlp.down_proj",
        "model.layers.0.self_attn.q_proj",
        "lm_head",
        "model.embed_tokens",
    ]
    for name in (*names, "model.norm", "model.layers.1.input_layernorm"):
        assert torch.equal(before[f"{name}.weight"], after[f"{name}.weight"])
        assert f"{name}.weight_scale" not in after
    assert summary["quantized_linears"] == 14 - 3
    assert summary["ignored_linears"] == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
    ]
    _our_logits(tmp_path / "out")


def test_bf16_only_changes_the_type(source: Path, text: Path, tmp_path: Path) -> None:
    _quantize(source, tmp_path / "out", "bf16", text)
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(value.to(torch.bfloat16), after[name]) for name, value in before.items())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config and config["torch_dtype"] == "bfloat16"


def test_an_earlier_model_is_overwritten_only_by_force(source: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _quantize(source, out, "int8", text)
    (out / "notes.txt").write_text("mine")
    (out / "model-00001-of-00002.safetensors").write_bytes(b"old")
    with pytest.raises(ConfigError, match=r"out: not empty; .* --force"):
        _quantize(source, out, "fp8-dynamic", text)
    _quantize(source, out, "fp8-dynamic", text, force=True)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "notes.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    _our_logits(out)


@pytest.mark.parametrize(
    ("scheme", "options", "message"),
    [
        (
            "int4-g128",
            {},
            r"q_proj has 96 columns, .* no multiple of 128: use int4-g32, or .* --ignore",
        ),
        ("int8", {"ignore": ("lm_heat",)}, "--ignore lm_heat: no linear of this model has that name"),
        ("int8", {"ignore": ("re:(",)}, "is not a regular expression"),
        ("int8", {"ignore": ("Linear",)}, "leaves nothing to quantize"),
        ("fp8-static", {"calibration": Path("/none.txt")}, "--calibration /none.txt: No such file"),
        ("fp8-static", {"calibration_tokens": 8}, "8 tokens are too few"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    scheme: str, options: dict[str, Any], message: str, text: Path, tmp_path: Path
) -> None:
    _save_model(tmp_path / "source", hidden_size=96, head_dim=24)
    request = {"calibration": text, **options}
    with pytest.raises(ConfigError, match=message) as caught:
        quantize(Request(str(tmp_path / "source"), tmp_path / "out", RECIPES[scheme], **request))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_source_is_never_written_to_nor_quantized_twice(source: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is where the model is"):
        _quantize(source, source, "int8", text, force=True)
    _quantize(source, tmp_path / "once", "int8", text)
    with pytest.raises(ModelFileError, match=r"is quantized already \(compressed-tensors\)"):
        _quantize(tmp_path / "once", tmp_path / "twice", "int8", text)


def test_the_command_prints_one_json_object(
    source: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["quantize", str(source), str(tmp_path / "out"), "--scheme", "int4-g32", "--asymmetric", "--json"]
    words += ["--calibration", str(text), "--distill-steps", "3", "--written-tokens", "2048"]
    assert run([*words, "--ignore", "re:.*o_proj"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["scheme"] == "int4-g32" and summary["symmetric"] is False
    assert summary["quantized_linears"] == 12
    assert summary["calibration_tokens"] > 500 and summary["distill_steps"] == 3
    assert 0 < summary["written_tokens"] <= 2048
    assert summary["weight_bytes_after"] < summary["weight_bytes_before"]
    with pytest.raises(ConfigError, match="int8 has no zero points"):
        run(["quantize", str(source), str(tmp_path / "other"), "--scheme", "int8", "--asymmetric"])
