"""safetensors files against the reference library, and against files that nobody should believe."""

from __future__ import annotations

import json
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save, save_file
from weights_helpers import safetensors_bytes, write_hf_model

from ozone.errors import ModelFileError
from ozone.weights.model_files import open_model
from ozone.weights.safetensors_file import SafetensorsFile
from ozone.weights.safetensors_source import INDEX, SafetensorsWeights


def opened(tmp_path: Path, data: bytes) -> SafetensorsFile:
    (tmp_path / "model.safetensors").write_bytes(data)
    return SafetensorsFile(tmp_path / "model.safetensors")


@pytest.mark.parametrize("seed", range(4))
def test_files_of_the_reference_writer_read_back(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    dtypes = {
        "F64": "f8",
        "F32": "f4",
        "F16": "f2",
        "I64": "i8",
        "I32": "i4",
        "I16": "i2",
        "I8": "i1",
        "U8": "u1",
    }
    tensors = {
        f"{name}.{index}": random.integers(0, 100, random.integers(0, 5, random.integers(0, 4))).astype(code)
        for name, code in dtypes.items()
        for index in range(3)
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "np", "naïve": "文"})
    file = SafetensorsFile(path)
    assert sorted(file.tensors) == sorted(tensors)
    for name, array in tensors.items():
        tensor = file.get(name)
        assert (tensor.dtype, tensor.shape) == (name.split(".")[0], array.shape)
        assert tensor.data.tobytes() == array.tobytes()
        assert not tensor.data.flags.owndata


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "bool"])
def test_types_that_numpy_has_not_come_as_bytes(tmp_path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    save_torch({"t": tensor}, tmp_path / "model.safetensors")
    raw = SafetensorsFile(tmp_path / "model.safetensors").get("t")
    names = {"bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "bool": "BOOL"}
    assert (raw.dtype, raw.shape) == (names[dtype], (2, 3))
    assert raw.data.tobytes() == tensor.view(torch.uint8).numpy().tobytes()


def entry(start: int = 0, end: int = 8, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


EIGHT = bytes(8)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "seven bytes": (bytes(7), "ends within its header"),
    "a header beyond the file": (safetensors_bytes({}, length=100), "header of 100 bytes does not fit"),
    "an absurd header": (safetensors_bytes({}, length=2**64 - 1), "does not fit"),
    "a header that is no JSON": (safetensors_bytes(b"{]"), "not valid JSON"),
    "a header that is a list": (safetensors_bytes([]), "a JSON object is expected"),
    "a header that is not UTF-8": (safetensors_bytes(b'{"\xff": 1}'), "not UTF-8"),
    "a header nested deeply": (safetensors_bytes(b'{"a":' + b"[" * 90_000), "nested too deeply"),
    "a header with NaN": (safetensors_bytes(b'{"a": NaN}'), "NaN is not a number"),
    "a tensor twice": (
        safetensors_bytes(b'{"a": %b, "a": %b}' % ((json.dumps(entry()).encode(),) * 2), EIGHT),
        "a key occurs twice",
    ),
    "an entry that is no object": (safetensors_bytes({"a": 5}, EIGHT), "'a' is 5"),
    "an entry without a type": (safetensors_bytes({"a": {}}, EIGHT), "the type None"),
    "an unknown type": (safetensors_bytes({"a": entry(dtype="F4")}, EIGHT), "the type 'F4'"),
    "a type that is a list": (safetensors_bytes({"a": entry(dtype=[])}, EIGHT), r"the type \[\]"),
    "a negative dimension": (safetensors_bytes({"a": entry(shape=[-2, -1])}, EIGHT), r"the shape \[-2, -1\]"),
    "a shape that is a number": (safetensors_bytes({"a": entry(shape=2)}, EIGHT), "the shape 2"),
    "a fractional dimension": (safetensors_bytes({"a": entry(shape=[2.0])}, EIGHT), r"the shape \[2.0\]"),
    "too many dimensions": (safetensors_bytes({"a": entry(shape=[1] * 9)}, EIGHT), "the shape"),
    "offsets without a shape for them": (safetensors_bytes({"a": entry(shape=[3])}, EIGHT), "needs 12 bytes"),
    "dimensions whose product overflows": (
        safetensors_bytes({"a": entry(shape=[2**62, 2**62])}, EIGHT),
        "its offsets span 8",
    ),
    "offsets in the wrong order": (safetensors_bytes({"a": entry(8, 0)}, EIGHT), "span -8"),
    "three offsets": (safetensors_bytes({"a": entry() | {"data_offsets": [0, 8, 9]}}, EIGHT), "the offsets"),
    "a negative offset": (safetensors_bytes({"a": entry(-8, 0)}, EIGHT), "the offsets"),
    "a tensor beyond the file": (safetensors_bytes({"a": entry()}, bytes(4)), "incomplete download"),
    "overlapping tensors": (
        safetensors_bytes({"a": entry(), "b": entry(4, 12)}, bytes(12)),
        "tensor 'a' and tensor 'b' overlap",
    ),
    "a gap between tensors": (
        safetensors_bytes({"a": entry(), "b": entry(12, 20)}, bytes(20)),
        "tensor 'a' and tensor 'b' leave a gap",
    ),
    "bytes after the last tensor": (safetensors_bytes({"a": entry()}, bytes(9)), "1 bytes follow tensor 'a'"),
    "metadata that is a text": (safetensors_bytes({"__metadata__": "x"}), "__metadata__ is not an object"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_gives_one_clear_line(tmp_path: Path, case: str) -> None:
    data, message = HOSTILE[case]
    with pytest.raises(ModelFileError, match=message) as caught:
        opened(tmp_path, data)
    assert str(caught.value).isprintable()
    if case != "a tensor twice":  # the format forbids it, the reference lets it pass
        with pytest.raises(SafetensorError), safe_open(tmp_path / "model.safetensors", "np"):
            pytest.fail("the reference accepts what Ozone refuses")


def test_a_header_larger_than_any_real_one_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate((1 << 30) + 8)
    with pytest.raises(ModelFileError, match="does not fit"):
        SafetensorsFile(path)


def write_shards(folder: Path, weight_map: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
    """Two files of two tensors each; `weight_map` changes what the index says."""
    write_hf_model(folder)
    (folder / "model.safetensors").unlink()
    tensors = {f"t{index}": np.full(index + 1, index, np.float32) for index in range(4)}
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for number, shard in enumerate(shards):
        part = {name: tensors[name] for name in list(tensors)[2 * number : 2 * number + 2]}
        (folder / shard).write_bytes(save(part, {"format": "pt"}))
    index = {name: shards[int(name[1]) // 2] for name in tensors} | (weight_map or {})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return tensors


def test_shards_read_as_one(tmp_path: Path) -> None:
    tensors = write_shards(tmp_path)
    weights = open_model(str(tmp_path)).open_weights()
    assert sorted(weights.names()) == sorted(tensors)
    assert weights.path == str(tmp_path)
    for name, array in tensors.items():
        assert weights.get(name).data.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"t0": "../outside.safetensors"}, "'../outside.safetensors' is not the name"),
        ({"t0": "/etc/passwd"}, "'/etc/passwd' is not the name"),
        ({"t0": "..\\x.safetensors"}, "is not the name"),
        ({"t0": ".safetensors"}, "'.safetensors' is not the name"),
        ({"t0": 5}, "'' is not the name"),
        ({"t0": ["x"]}, "'' is not the name"),
        ({"t0": "weights.bin"}, "'weights.bin' is not the name"),
        ({"t0": "model-00003-of-00002.safetensors"}, "the file model-00003-of-00002.safetensors .* missing"),
        ({"t9": "model-00001-of-00002.safetensors"}, "the tensor 't9' is not in model-00001"),
        ({"t3": "model-00001-of-00002.safetensors"}, "the tensor 't3' is not in model-00001"),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(tmp_path: Path, weight_map: Any, message: str) -> None:
    (tmp_path.parent / "outside.safetensors").write_bytes(save({"t0": np.ones(1)}))
    write_shards(tmp_path, weight_map)
    with pytest.raises(ModelFileError, match=message):
        SafetensorsWeights(tmp_path)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "{", '{"weight_map": NaN}']
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    write_shards(tmp_path)
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ModelFileError, match=INDEX):
        SafetensorsWeights(tmp_path)


def test_saved_rotary_buffers_are_no_weights(tmp_path: Path) -> None:
    write_hf_model(tmp_path)
    tensors = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2), "model.norm.weight": np.ones(2)}
    (tmp_path / "model.safetensors").write_bytes(save(tensors))
    assert list(SafetensorsWeights(tmp_path).names()) == ["model.norm.weight"]


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"the tensor model\.x is missing"):
        SafetensorsWeights(write_hf_model(tmp_path)).get("model.x")


def test_tensors_may_be_read_from_many_threads(tmp_path: Path) -> None:
    weights = open_model(str(write_hf_model(tmp_path))).open_weights()
    names = [*weights.names()] * 200
    with ThreadPoolExecutor(8) as pool:
        data = list(pool.map(lambda name: weights.get(name).data.tobytes(), names))
    assert data == [weights.get(name).data.tobytes() for name in names]


def test_another_naming_of_the_same_weights_is_left_alone(tmp_path: Path) -> None:
    write_hf_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "adapter.safetensors")
    (tmp_path / "consolidated.safetensors").write_bytes(b"unread")
    assert "model.norm.weight" in SafetensorsWeights(tmp_path).names()
    (tmp_path / "second.safetensors").write_bytes(b"unread")
    with pytest.raises(ModelFileError, match=r"2 safetensors files, but no model\.safetensors\.index"):
        SafetensorsWeights(tmp_path)


def _resident_file_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("RssFile:"))
    return int(line.split()[1]) << 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_what_was_read_can_be_released_and_read_again(tmp_path: Path) -> None:
    values = np.arange(16 << 20, dtype=np.int32)
    save_file({"a": values}, tmp_path / "model.safetensors")
    weights = SafetensorsWeights(tmp_path)
    data = weights.get("a").data
    np.testing.assert_array_equal(data.view(np.int32), values)
    read = _resident_file_bytes()
    weights.release()
    assert read - _resident_file_bytes() > values.nbytes // 2
    np.testing.assert_array_equal(data.view(np.int32), values)
