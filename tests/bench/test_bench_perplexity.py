"""`ozone bench perplexity` on a tiny model, against transformers' losses."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from ozone.bench.perplexity import TEXT, Score, main, split
from ozone.errors import ConfigError
from ozone.weights.model_files import open_model

_FLAGS = ["--num-threads", "1", "--kv-cache-memory-bytes", "1000000", "--dtype", "float32", "-O0"]


def test_the_text_that_comes_along_never_changes() -> None:
    """Figures of different versions can only be compared on one text."""
    digest = hashlib.sha256(TEXT.read_bytes()).hexdigest()
    assert digest == "d39cb680ff413f49ce9e9492f3f5f0e26e4270bd49016cee329e0bcac650790e"


def test_windows_cover_the_text_and_each_begins_as_every_text_does() -> None:
    assert split(range(7), 3, [99]) == [[99, 0, 1, 2], [99, 3, 4, 5]]
    assert split(range(5), 3, []) == [[0, 1, 2], [3, 4]]
    with pytest.raises(ConfigError, match="less than two tokens"):
        split([1], 3, [])


def test_a_score_is_the_exponential_of_the_mean_loss() -> None:
    score = Score([math.log(2.0)] * 3 + [math.log(8.0)], 1.0)
    assert score.perplexity == pytest.approx(2 ** (6 / 4))
    assert score.standard_error > 0


def test_the_perplexity_equals_that_of_transformers(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny_model), "--tokens", "150", "--window", "60", "--json", *_FLAGS]) == 0
    streams = capsys.readouterr()
    report = json.loads(streams.out)
    assert report["parameters"] == {"text": "perplexity.txt", "tokens": 150, "window": 60}
    reference = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(tiny_model / "tokenizer.json")).encode(TEXT.read_text()[:2000]).ids[:150]
    losses: list[torch.Tensor] = []
    for start in range(0, 150, 60):
        window = torch.tensor(ids[start : start + 60])
        with torch.inference_mode():
            logits = reference(window[None]).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, window[1:], reduction="none"))
    expected = torch.cat(losses)
    assert report["results"]["scored_tokens"] == len(expected) == 147
    assert report["results"]["mean_loss"] == pytest.approx(float(expected.mean()), abs=1e-5)
    assert report["results"]["perplexity"] == pytest.approx(math.exp(float(expected.mean())), rel=1e-5)
    assert "perplexity" in streams.err
    assert open_model(str(tiny_model)).config.vocab_size == reference.config.vocab_size


def test_a_text_of_the_users_own(tiny_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("the cat sat on the mat " * 5)
    assert main([str(tiny_model), "--text", str(text), *_FLAGS]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--window", "1"], "--window: at least 2"), (["--text", "/none"], "--text /none: No such file")],
)
def test_a_mistake_is_one_line(flags: list[str], message: str, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        main([str(tiny_model), *flags])
