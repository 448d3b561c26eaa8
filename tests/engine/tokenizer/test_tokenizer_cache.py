"""A rebuilt tokenizer is kept on disk, found again, and never trusted blindly."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizer_texts import TEXTS
from vocabularies import byte_level_metadata, sentencepiece_metadata, sentencepiece_model

from ozone.engine.tokenizer import load_tokenizer, loading
from ozone.engine.tokenizer.gguf_vocabulary import fingerprint


def only_file(folder: Path, name: str = "tokenizer.json") -> Path:
    [path] = folder.rglob(name)
    return path


def test_the_second_start_reads_what_the_first_has_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = sentencepiece_metadata(sentencepiece_model(True))
    first = load_tokenizer(gguf_metadata=metadata, cache_dir=tmp_path / "new" / "folder")
    monkeypatch.setattr(loading, "rebuild", None)
    second = load_tokenizer(gguf_metadata=metadata, cache_dir=tmp_path / "new" / "folder")
    assert all(first.encode(text) == second.encode(text) for text in TEXTS)
    assert (first.bos_token, first.bos_token_id, first.vocab_size) == (
        second.bos_token,
        second.bos_token_id,
        second.vocab_size,
    )


def test_what_is_kept_is_a_tokenizer_json_that_the_library_reads(tmp_path: Path) -> None:
    import tokenizers

    tokenizer = load_tokenizer(gguf_metadata=byte_level_metadata("qwen2"), cache_dir=tmp_path)
    kept = tokenizers.Tokenizer.from_file(str(only_file(tmp_path)))
    assert kept.encode("Hello, world").ids == tokenizer.encode("Hello, world")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "no checksum", "bad checksum", "other"])
def test_a_damaged_cache_is_rebuilt(tmp_path: Path, damage: str) -> None:
    metadata = byte_level_metadata("gpt-2")
    expected = load_tokenizer(gguf_metadata=metadata, cache_dir=tmp_path).encode("Hello, world")
    path, checksum = only_file(tmp_path), only_file(tmp_path, "tokenizer.json.sha256")
    whole = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(whole[:-10])
        case "flipped":  # still a valid tokenizer.json, of another vocabulary
            path.write_bytes(whole.replace(b'"Hello"', b'"Jello"').replace(b'"He"', b'"Je"'))
        case "empty":
            path.write_bytes(b"")
        case "no checksum":
            checksum.unlink()
        case "bad checksum":
            checksum.write_bytes(b"\xff" * 64)
        case "other":
            path.write_bytes(b"{}")
    assert load_tokenizer(gguf_metadata=metadata, cache_dir=tmp_path).encode("Hello, world") == expected
    assert path.read_bytes() == whole
    assert len(list(path.parent.iterdir())) == 2


def test_an_unwritable_cache_costs_only_the_cache_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        tokenizer = load_tokenizer(gguf_metadata=byte_level_metadata("gpt-2"), cache_dir=blocked)
    assert tokenizer.decode(tokenizer.encode("Hello")) == "Hello"
    [record] = caplog.records
    assert record.getMessage().startswith("the rebuilt tokenizer is not cached")


def test_concurrent_starts_share_the_cache(tmp_path: Path) -> None:
    metadata = byte_level_metadata("llama-bpe")
    results: list[list[int]] = []

    def start() -> None:
        results.append(load_tokenizer(gguf_metadata=metadata, cache_dir=tmp_path).encode("Hello, world"))

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6 and all(result == results[0] for result in results)
    assert len(list(only_file(tmp_path).parent.iterdir())) == 2


def test_the_key_depends_on_everything_that_matters() -> None:
    base = byte_level_metadata("gpt-2")
    key = fingerprint(base, "1")
    assert key == fingerprint(base | {"general.name": "other", "tokenizer.chat_template": "x"}, "1")
    tokens = base["tokenizer.ggml.tokens"]
    moved = [*tokens[:-2], tokens[-2] + tokens[-1][0], tokens[-1][1:]]
    changes = [
        {"pre": "qwen2"},
        {"tokens": moved},
        {"merges": base["tokenizer.ggml.merges"][:-1]},
        {"bos_token_id": 0},
        {"eos_token_id": 1},
        {"add_bos_token": True},
        {"add_eos_token": True},
        {"add_space_prefix": False},
        {"token_type": base["tokenizer.ggml.token_type"].astype(np.int64)},
        {"scores": np.zeros(len(tokens), np.float32)},
        {"unknown_token_id": 0},
        {"model": "llama"},
    ]
    keys = {
        fingerprint(base | {f"tokenizer.ggml.{k}": v for k, v in change.items()}, "1") for change in changes
    }
    assert len(keys | {key, fingerprint(base, "2")}) == len(changes) + 2


def test_a_file_with_lazily_read_strings_needs_none_of_them_for_a_cached_start(
    tmp_path: Path, default_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ozone.weights.gguf_file import GGUFFile, StringArray

    load_tokenizer(gguf_metadata=GGUFFile(default_gguf).metadata, cache_dir=tmp_path)
    monkeypatch.setattr(StringArray, "_decode", None)
    tokenizer = load_tokenizer(gguf_metadata=GGUFFile(default_gguf).metadata, cache_dir=tmp_path)
    assert tokenizer.eos_token == "<|im_end|>"


def test_a_cached_start_with_the_default_model_is_fast(
    tmp_path: Path, default_metadata: dict[str, Any]
) -> None:
    load_tokenizer(gguf_metadata=default_metadata, cache_dir=tmp_path)

    def seconds() -> float:
        start = time.perf_counter()
        load_tokenizer(gguf_metadata=default_metadata, cache_dir=tmp_path)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.3  # 0.1 s on a quiet machine


def test_the_key_of_a_large_vocabulary_is_computed_in_milliseconds(default_metadata: dict[str, Any]) -> None:
    plain = {key: list(v) if hasattr(v, "raw") else v for key, v in default_metadata.items()}

    def seconds(metadata: dict[str, Any]) -> float:
        start = time.perf_counter()
        fingerprint(metadata, "1")
        return time.perf_counter() - start

    assert min(seconds(default_metadata) for _ in range(5)) < 0.01
    assert min(seconds(plain) for _ in range(5)) < 0.06


def test_the_cached_json_is_compact(tmp_path: Path) -> None:
    load_tokenizer(gguf_metadata=byte_level_metadata("gpt-2"), cache_dir=tmp_path)
    content = only_file(tmp_path).read_text("utf-8")
    assert len(content) == len(json.dumps(json.loads(content), ensure_ascii=False, separators=(",", ":")))
