"""SmolLM2 quantized to each scheme predicts the fixed text as plain PyTorch says that scheme does."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ozone.bench.perplexity import TEXT, main, split
from ozone.cli.main import run
from ozone.engine.tokenizer import load_tokenizer

sys.path.append(str(Path(__file__).parents[1] / "quantization"))

# In percent more than bfloat16, at most; None: whatever it is.
LIMITS: dict[str, float | None] = {
    "fp8-dynamic": 2.0,
    "fp8-static": 2.0,
    "fp8-block": 2.0,
    "int8": None,
    "int8-static": None,
    "int4-g32": 10.0,
    "int4-g64": 10.0,
    "int4-channel": None,
}
TOKENS, WINDOW = 20_000, 2_000


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bf16") / "out"
    assert run(["quantize", "smollm2", str(out), "--scheme", "bf16"]) == 0
    return out


def _perplexity(folder: Path, dtype: str, capsys: pytest.CaptureFixture[str]) -> float:
    capsys.readouterr()
    flags = ["-O0", "--dtype", dtype, "--json", "--tokens", str(TOKENS), "--window", str(WINDOW)]
    assert main([str(folder), *flags]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return float(report["results"]["perplexity"])


def _emulated_perplexity(model: Any, folder: Path) -> float:
    tokenizer = load_tokenizer(tokenizer_json=folder / "tokenizer.json", tokenizer_config={})
    losses = []
    for window in split(tokenizer.encode(TEXT.read_text())[:TOKENS], WINDOW, []):
        tokens = torch.tensor(window)
        with torch.inference_mode():
            logits = model(tokens[None]).logits[0, :-1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none"))
    return math.exp(float(torch.cat(losses).mean()))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scheme", LIMITS)
def test_perplexity_equals_that_of_the_emulation(
    scheme: str, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from quantized_formats import read_emulation

    out = tmp_path / "out"
    assert run(["quantize", "smollm2", str(out), "--scheme", scheme]) == 0
    # In float32, since bfloat16's own rounding decides how inputs near the middle of two numbers are
    # quantized, which moves the perplexity by as much as is allowed.
    found = _perplexity(out, "float32", capsys)
    model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()
    expected = _emulated_perplexity(read_emulation(out, model), out)
    loss = _perplexity(out, "bfloat16", capsys) / _perplexity(plain, "bfloat16", capsys) - 1
    with capsys.disabled():
        print(f"\n{scheme}: perplexity {found:.3f}, emulated {expected:.3f}, {loss:+.2%} over bfloat16")
    assert found == pytest.approx(expected, rel=0.003)
    limit = LIMITS[scheme]
    assert limit is None or 100 * loss < limit
