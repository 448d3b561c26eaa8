"""The GGUF parser against the reference package, and against files that nobody should believe."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from weights_helpers import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U8,
    U32,
    gguf_bytes,
    gguf_entry,
    gguf_model,
    gguf_string,
    gguf_tensor_row,
    gguf_value,
)  # fmt: skip

from ozone.errors import ModelFileError
from ozone.weights.embedded import embedded_model_path
from ozone.weights.gguf_file import GGUFFile, StringArray
from ozone.weights.gguf_types import BLOCK_TYPES, GGUF_TYPES

ARCHITECTURE = gguf_entry("general.architecture", STRING, "llama")
Q4_1 = 3


def opened(tmp_path: Path, data: bytes) -> GGUFFile:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    return GGUFFile(path)


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, StringArray) else value


def assert_equal_to_reference(file: GGUFFile) -> None:
    reference = gguf.GGUFReader(file.path)
    fields = {key: field for key, field in reference.fields.items() if not key.startswith("GGUF.")}
    assert list(file.metadata) == list(fields)
    for key, field in fields.items():
        assert plain(file.metadata[key]) == field.contents(), key
    assert list(file.tensors) == [tensor.name for tensor in reference.tensors]
    for tensor in reference.tensors:
        info = file.tensors[tensor.name]
        assert info.shape == tuple(reversed(tensor.shape.tolist()))
        assert info.kind.name == tensor.tensor_type.name
        assert (info.start, info.nbytes) == (tensor.data_offset, tensor.n_bytes)
        assert np.array_equal(file.tensor_data(info), tensor.data.reshape(-1).view(np.uint8))


def test_the_default_model_reads_as_the_reference_reads_it() -> None:
    assert_equal_to_reference(GGUFFile(embedded_model_path()))


def test_the_default_model_opens_in_a_fraction_of_a_tenth_of_a_second() -> None:
    durations = []
    for _ in range(5):
        start = time.perf_counter()
        GGUFFile(embedded_model_path())
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.1


@pytest.mark.parametrize("seed", range(6))
def test_random_files_of_the_reference_writer_read_back(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    path = tmp_path / "random.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    if seed % 2:
        writer.add_custom_alignment(int(random.choice([8, 64, 256])))
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -3)
    writer.add_uint16("a.u16", 60000)
    writer.add_int16("a.i16", -30000)
    writer.add_int32("a.i32", -(2**31))
    writer.add_uint64("a.u64", 2**64 - 1)
    writer.add_int64("a.i64", -(2**63))
    writer.add_float32("a.f32", 0.25)
    writer.add_float64("a.f64", float(random.standard_normal()))
    writer.add_bool("a.bool", bool(seed % 2))
    writer.add_string("a.text", "naïve 🙂 文")
    writer.add_array("a.texts", [chr(int(c)) * int(n) for c, n in random.integers(48, 900, (50, 2))])
    writer.add_array("a.ints", random.integers(0, 9, 100).tolist())
    writer.add_array("a.floats", random.standard_normal(20).tolist())
    writer.add_array("a.bools", [True, False, True])
    for index in range(int(random.integers(1, 6))):
        shape = tuple(random.integers(1, 7, random.integers(1, 4)))
        writer.add_tensor(f"plain.{index}", random.standard_normal(shape).astype(np.float32))
    raw = random.integers(0, 255, (5, 2, 20), np.uint8)
    writer.add_tensor("blocks", raw.reshape(5, 40), raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert_equal_to_reference(GGUFFile(path))


def test_block_sizes_are_those_of_the_reference() -> None:
    for kind in gguf.GGMLQuantizationType:
        known = GGUF_TYPES[kind.value]
        assert known.name == kind.name
        if kind.name not in ("Q8_1",):  # an intermediate type whose scales the reference counts as 32-bit
            assert (known.block_size, known.block_bytes) == gguf.GGML_QUANT_SIZES[kind]


def test_every_supported_block_type_can_be_decoded() -> None:
    from ozone.quantization import decoders

    assert {name for name, kind in BLOCK_TYPES.items() if kind.block_size > 1} <= set(decoders())


def test_version_2_reads_like_version_3(tmp_path: Path) -> None:
    two, three = opened(tmp_path, gguf_model(version=2)), opened(tmp_path, gguf_model())
    assert (two.version, three.version) == (2, 3)
    assert two.tensors == three.tensors


def test_nested_arrays_read_as_lists(tmp_path: Path) -> None:
    nested = (ARRAY, [(U32, [1, 2]), (U32, [3])])
    file = opened(tmp_path, gguf_bytes([gguf_entry("deep", ARRAY, nested)]))
    assert [part.tolist() for part in file.metadata["deep"]] == [[1, 2], [3]]


def test_string_arrays_are_sequences_and_keep_their_bytes(tmp_path: Path) -> None:
    file = opened(tmp_path, gguf_bytes([gguf_entry("texts", ARRAY, (STRING, ["a", "", "é"]))]))
    texts = file.metadata["texts"]
    assert (len(texts), texts[2], texts[-1], texts[0:2], list(texts)) == (
        3,
        "é",
        "é",
        ["a", ""],
        ["a", "", "é"],
    )
    assert bytes(texts.raw) == gguf_string("a") + gguf_string("") + gguf_string("é")


def test_tensor_data_is_a_read_only_view_of_the_file(tmp_path: Path) -> None:
    file = opened(tmp_path, gguf_model())
    data = file.tensor_data(file.tensors["output_norm.weight"])
    assert not data.flags.writeable
    assert not data.flags.owndata


def row(name: str = "t", dims: tuple[int, ...] = (32,), type_id: int = 0, offset: int = 0) -> bytes:
    return gguf_tensor_row(name, dims, type_id, offset)


def nested_arrays(depth: int) -> bytes:
    value: tuple[int, list[Any]] = (U8, [1])
    for _ in range(depth):
        value = (ARRAY, [value])
    return gguf_entry("deep", ARRAY, value)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "another magic": (b"GGML" + b"\0" * 60, "not a GGUF file"),
    "nothing but the magic": (b"GGUF", "ends within"),
    "version 1": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1 is not supported"),
    "version 4": (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "version 4 is not supported"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "absurdly many tensors": (gguf_bytes([], counts=(2**63, 0)), "more than it can hold"),
    "many tensors in a small file": (gguf_bytes([ARCHITECTURE], counts=(99, 1)), "more than it can hold"),
    "absurdly many entries": (gguf_bytes([], counts=(0, 2**64 - 1)), "more than it can hold"),
    "a key beyond the file": (gguf_bytes([struct.pack("<Q", 2**63) + b"x" * 99]), "bytes"),
    "a key that is not UTF-8": (gguf_bytes([gguf_string(b"\xff\xfe") + b"\0" * 9]), "not UTF-8"),
    "a key twice": (gguf_bytes([ARCHITECTURE, ARCHITECTURE]), "occurs twice"),
    "an unknown value type": (gguf_bytes([gguf_string("k") + struct.pack("<I", 13) + b"\0" * 32]), "type 13"),
    "a boolean of 2": (gguf_bytes([gguf_entry("k", BOOL, 2)]), "not a boolean"),
    "an array with a boolean of 2": (gguf_bytes([gguf_entry("k", ARRAY, (BOOL, [1, 2]))]), "not booleans"),
    "a string beyond the file": (
        gguf_bytes([gguf_string("k") + struct.pack("<IQ", STRING, 2**40) + b"\0" * 9]),
        "ends within",
    ),
    "an array beyond the file": (
        gguf_bytes([gguf_string("k") + struct.pack("<IIQ", ARRAY, F32, 2**62) + b"\0" * 9]),
        "more than it can hold",
    ),
    "strings beyond the file": (
        gguf_bytes([gguf_string("k") + struct.pack("<IIQQ", ARRAY, STRING, 2, 2**64 - 8) + b"\0" * 64]),
        "ends outside the file",
    ),
    "the last string beyond the file": (
        gguf_bytes([gguf_string("k") + struct.pack("<IIQQ", ARRAY, STRING, 1, 500) + b"\0" * 64]),
        "ends within",
    ),
    "more strings than bytes": (
        gguf_bytes([gguf_string("k") + struct.pack("<IIQ", ARRAY, STRING, 2**50) + b"\0" * 64]),
        "more than it can hold",
    ),
    "arrays nested too deeply": (gguf_bytes([nested_arrays(40)]), "nested deeper"),
    "an alignment of 24": (gguf_bytes([gguf_entry("general.alignment", U32, 24)]), "power of two"),
    "an alignment of 0": (gguf_bytes([gguf_entry("general.alignment", U32, 0)]), "power of two"),
    "an alignment of text": (gguf_bytes([gguf_entry("general.alignment", STRING, "8")]), "power of two"),
    "a tensor twice": (gguf_bytes([], [row(), row(offset=128)], bytes(256)), "occurs twice"),
    "a tensor of an unknown type": (gguf_bytes([], [row(type_id=77)], bytes(256)), "unknown type 77"),
    "a tensor of five dimensions": (gguf_bytes([], [row(dims=(1,) * 5)], bytes(256)), "5 dimensions"),
    "an empty tensor": (gguf_bytes([], [row(dims=(32, 0))], bytes(256)), "is empty"),
    "a tensor larger than the file": (gguf_bytes([], [row(dims=(1000,))], bytes(256)), "lies outside"),
    "dimensions whose product overflows": (
        gguf_bytes([], [row(dims=(2**32, 2**32, 2**32, 2**32))], bytes(256)),
        "lies outside",
    ),
    "a tensor that starts beyond the file": (
        gguf_bytes([], [row(offset=2**63)], bytes(256)),
        "lies outside",
    ),
    "an unaligned tensor": (gguf_bytes([], [row(offset=4)], bytes(256)), "not aligned"),
    "rows of half blocks": (gguf_bytes([], [row(dims=(48,), type_id=Q4_1)], bytes(256)), "whole Q4_1 blocks"),
    "a single number in blocks": (gguf_bytes([], [row(dims=(), type_id=Q4_1)], bytes(256)), "rows of 1 are"),
    "overlapping tensors": (
        gguf_bytes([], [row("a"), row("b", offset=64)], bytes(256)),
        "overlap",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_gives_one_clear_line(tmp_path: Path, case: str) -> None:
    data, message = HOSTILE[case]
    with pytest.raises(ModelFileError, match=message) as caught:
        opened(tmp_path, data)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "model.gguf") in str(caught.value)


def test_hostile_names_cannot_break_a_message(tmp_path: Path) -> None:
    name = "line\nfeed\x1b[31m" + "x" * 500
    with pytest.raises(ModelFileError) as caught:
        opened(tmp_path, gguf_bytes([], [row(name, dims=(0,))], bytes(256)))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_text_that_is_not_utf8_is_named_when_it_is_read(tmp_path: Path) -> None:
    file = opened(tmp_path, gguf_bytes([gguf_entry("texts", ARRAY, (STRING, ["fine", b"\xff"]))]))
    with pytest.raises(ModelFileError, match="'texts': string 1 is not UTF-8"):
        list(file.metadata["texts"])


def test_strings_without_text_cannot_keep_the_parser_busy_for_long(tmp_path: Path) -> None:
    count = (1 << 23) + 1
    head = gguf_bytes([gguf_string("k") + struct.pack("<IIQ", ARRAY, STRING, count)])
    path = tmp_path / "empty-strings.gguf"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 8 * count)
    with pytest.raises(ModelFileError, match="more than it can hold"):
        GGUFFile(path)


def test_arrays_within_arrays_are_limited(tmp_path: Path) -> None:
    empty = struct.pack("<IQ", U8, 0)
    for count, fits in ((1 << 16, True), ((1 << 16) + 1, False)):
        data = gguf_bytes([gguf_string("k") + struct.pack("<IIQ", ARRAY, ARRAY, count) + empty * count])
        if fits:
            assert len(opened(tmp_path, data).metadata["k"]) == count
        else:
            with pytest.raises(ModelFileError, match="more than it can hold"):
                opened(tmp_path, data)


@pytest.mark.parametrize("kind", [U8, I32, F32])
def test_numeric_arrays_are_views_of_the_file(tmp_path: Path, kind: int) -> None:
    file = opened(tmp_path, gguf_bytes([gguf_entry("n", ARRAY, (kind, [1, 2, 3]))]))
    assert file.metadata["n"].tolist() == [1, 2, 3]
    assert file.metadata["n"].tobytes() == gguf_value(ARRAY, (kind, [1, 2, 3]))[12:]
    assert not file.metadata["n"].flags.owndata


def test_a_directory_an_empty_file_and_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    for path, message in (
        (tmp_path, "cannot be read"),
        (tmp_path / "empty.gguf", "empty"),
        (tmp_path / "no", "No such"),
    ):
        with pytest.raises(ModelFileError, match=message):
            GGUFFile(path)
