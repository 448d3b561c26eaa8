"""The default model, a GGUF file, written as a quantized checkpoint, answers here and in transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ozone import LLM, SamplingParams
from ozone.cli.main import run

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["fp8-static", "int8"])
def test_a_quantized_gguf_model_answers_as_transformers_does(scheme: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(["quantize", "smollm2", str(out), "--scheme", scheme, "--calibration-tokens", "1024"]) == 0
    assert json.loads((out / "config.json").read_text())["quantization_config"]["ignore"] == ["lm_head"]
    with LLM(str(out), optimization_level=0, kv_cache_memory_bytes="256M", max_model_len=512) as llm:
        (answer,) = llm.chat(QUESTION, SamplingParams(temperature=0.0, max_tokens=12))
    assert "Paris" in answer.outputs[0].text
    tokenizer = AutoTokenizer.from_pretrained(out)
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt")
    ids = prompt["input_ids"]
    assert ids[0].tolist() == answer.prompt_token_ids
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    with torch.inference_mode():
        text = tokenizer.decode(model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :])
    assert "Paris" in text
