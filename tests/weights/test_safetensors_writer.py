"""Tensors written one by one are what the format's own library reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ozone.weights.safetensors_source import SafetensorsWeights
from ozone.weights.safetensors_writer import PlannedTensor, SafetensorsWriter

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([7], np.int64),
    "c": np.arange(40, dtype=np.uint8).reshape(5, 8).T,
    "d": np.array(2.5, np.float16),
}
TYPES = {"float32": "F32", "int64": "I64", "uint8": "U8", "float16": "F16"}
PLAN = [PlannedTensor(name, TYPES[str(value.dtype)], value.shape) for name, value in TENSORS.items()]


def _write(folder: Path, **options: int) -> list[str]:
    writer = SafetensorsWriter(folder, PLAN, **options)
    for name, value in TENSORS.items():
        writer.write(name, value)
    return writer.close()


def test_one_file_holds_what_fits(tmp_path: Path) -> None:
    assert _write(tmp_path) == ["model.safetensors"]
    read = load_file(tmp_path / "model.safetensors")
    assert list(read) == list(TENSORS)
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(read[name], value)


def test_more_goes_to_shards_with_an_index_that_readers_follow(tmp_path: Path) -> None:
    names = _write(tmp_path, max_shard_bytes=32)
    assert names == [
        *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / names[-1]).read_text())
    assert index["metadata"] == {"total_size": 24 + 8 + 40 + 2}
    assert index["weight_map"] == {"a": names[0], "b": names[0], "c": names[1], "d": names[2]}
    source = SafetensorsWeights(tmp_path)
    assert set(source.names()) == set(TENSORS)
    for name, value in TENSORS.items():
        assert source.get(name).data.tobytes() == np.ascontiguousarray(value).tobytes()


def test_what_was_written_can_be_written_again(tmp_path: Path) -> None:
    writer = SafetensorsWriter(tmp_path, PLAN, max_shard_bytes=32)
    for name, value in TENSORS.items():
        writer.write(name, value)
    writer.close()
    writer.rewrite("c", other := TENSORS["c"] + 1)
    source = SafetensorsWeights(tmp_path)
    for name, value in (TENSORS | {"c": other}).items():
        assert source.get(name).data.tobytes() == np.ascontiguousarray(value).tobytes()
    with pytest.raises(ValueError, match="a of 40 bytes instead of 24"):
        writer.rewrite("a", other)


def test_the_plan_is_kept(tmp_path: Path) -> None:
    writer = SafetensorsWriter(tmp_path, PLAN)
    with pytest.raises(ValueError, match="b of 8 bytes instead of a of 24"):
        writer.write("b", TENSORS["b"])
    writer = SafetensorsWriter(tmp_path, PLAN)
    writer.write("a", TENSORS["a"])
    with pytest.raises(ValueError, match="not every planned tensor"):
        writer.close()
