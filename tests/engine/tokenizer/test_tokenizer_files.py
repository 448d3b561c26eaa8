"""Tokenizers from tokenizer.json, with what tokenizer_config.json says about them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_texts import PLAIN_TEXTS, TEXTS
from vocabularies import byte_level_metadata, sentencepiece_metadata, sentencepiece_model

from ozone.engine.tokenizer import load_tokenizer
from ozone.engine.tokenizer.gguf_vocabulary import read_vocabulary
from ozone.engine.tokenizer.rebuild import rebuild
from ozone.errors import ModelFileError, RequestError

BYTE_LEVEL = rebuild(read_vocabulary(byte_level_metadata("qwen2")))
SENTENCEPIECE = rebuild(read_vocabulary(sentencepiece_metadata(sentencepiece_model(True))))


def write(folder: Path, document: dict[str, Any], **changes: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(document | changes, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("document", [BYTE_LEVEL, SENTENCEPIECE])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"},
        {"add_bos_token": False, "add_eos_token": True, "bos_token": "<s>", "eos_token": "</s>"},
        {"add_bos_token": True, "add_eos_token": True, "eos_token": {"content": "</s>", "special": True}},
        {"add_bos_token": False, "bos_token": "<s>"},
        {"clean_up_tokenization_spaces": True},
    ],
)
def test_a_file_tokenizes_as_in_transformers(
    tmp_path: Path, document: dict[str, Any], config: dict[str, Any]
) -> None:
    from transformers import AddedToken, PreTrainedTokenizerFast

    names = {"<s>": "<|im_start|>", "</s>": "<|im_end|>"} if document is BYTE_LEVEL else {}
    text = json.dumps(config)
    for old, new in names.items():
        text = text.replace(old, new)
    config = json.loads(text)
    path = write(tmp_path, document)
    objects = {k: AddedToken(**v) if isinstance(v, dict) else v for k, v in config.items()}
    reference = PreTrainedTokenizerFast(tokenizer_file=str(path), **objects)
    tokenizer = load_tokenizer(tokenizer_json=path, tokenizer_config=config)
    for text in TEXTS[::2]:
        ids = reference(text)["input_ids"]
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == (reference.bos_token, reference.bos_token_id)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (reference.eos_token, reference.eos_token_id)


def test_a_files_truncation_and_padding_do_not_touch_prompts(tmp_path: Path) -> None:
    limits = {
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>",
        },
    }  # fmt: skip
    tokenizer = load_tokenizer(tokenizer_json=write(tmp_path, BYTE_LEVEL, **limits))
    text = "one two three four five six seven"
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("decoder", "ids", "text"),
    [
        (None, [5, 6, 7], "d e f"),
        ({"type": "Sequence", "decoders": [{"type": "Fuse"}]}, [5, 6, 7], "def"),
        (
            {
                "type": "Sequence",
                "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 2, "stop": 0}],
            },
            [0, 0, 0, 5],
            " d",
        ),
    ],
)
def test_other_decoders_decode_as_the_library_does(
    tmp_path: Path, decoder: dict[str, Any] | None, ids: list[int], text: str
) -> None:
    import tokenizers

    vocab = {token: n for n, token in enumerate([" ", "_", "a", "b", "c", "d", "e", "f"])}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "_"}
    path = write(tmp_path, {"version": "1.0", "added_tokens": [], "model": model}, decoder=decoder)
    tokenizer = load_tokenizer(tokenizer_json=path)
    assert tokenizer.decode(ids) == text == tokenizers.Tokenizer.from_file(str(path)).decode(ids)
    detokenizer = tokenizer.detokenizer([])
    assert "".join([detokenizer.append([n]) for n in ids]) == text


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"model": 3}', b"\xff\xfe", b'{"model": {"type": "BPE"}}', b'["\\u0041"]'],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        load_tokenizer(tokenizer_json=path)
    assert str(caught.value).startswith(f"{path} is damaged or of an unknown kind: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_model_without_tokenizer_are_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none\.json: cannot be read \(No such file or directory\)"):
        load_tokenizer(tokenizer_json=tmp_path / "none.json")
    with pytest.raises(ModelFileError, match="the model has no tokenizer"):
        load_tokenizer()


def test_a_file_too_large_for_a_tokenizer_is_refused_unread(tmp_path: Path) -> None:
    huge, pipe = tmp_path / "tokenizer.json", tmp_path / "pipe"
    with open(huge, "wb") as file:
        file.truncate((256 << 20) + 1)
    os.mkfifo(pipe)
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(ModelFileError, match=r"tokenizer\.json: larger than 256 MiB"):
        load_tokenizer(tokenizer_json=huge)
    with pytest.raises(ModelFileError, match="pipe: not a regular file"):
        load_tokenizer(tokenizer_json=pipe)
    elapsed, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert elapsed < 1 and peak < 1 << 20


def test_a_message_does_not_grow_with_the_file(tmp_path: Path) -> None:
    long = "x" * 1_000_000
    documents: list[dict[str, Any]] = [
        {"model": BYTE_LEVEL["model"] | {"continuing_subword_prefix": long}},
        {"model": {"type": long}},
        {"decoder": {"type": "CTC", "pad_token": long, "word_delimiter_token": "|", "cleanup": True}},
    ]
    for changes in documents:
        with pytest.raises(ModelFileError) as caught:
            load_tokenizer(tokenizer_json=write(tmp_path, BYTE_LEVEL, **changes))
        assert len(str(caught.value)) < 600 + len(str(tmp_path))
    with pytest.raises(ModelFileError) as caught:
        load_tokenizer(tokenizer_json=write(tmp_path, BYTE_LEVEL), tokenizer_config={"eos_token": [long]})
    assert len(str(caught.value)) < 200


def test_special_tokens_of_the_config_have_the_names_that_chat_templates_use(tmp_path: Path) -> None:
    config = {
        "bos_token": None,
        "eos_token": {"content": "<|im_end|>", "special": True},
        "unk_token": "<unk>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 3,
    }
    tokenizer = load_tokenizer(tokenizer_json=write(tmp_path, BYTE_LEVEL), tokenizer_config=config)
    expected = {"eos_token": "<|im_end|>", "unk_token": "<unk>", "pad_token": "<|endoftext|>"}
    assert tokenizer.special_tokens == expected


def test_what_ends_the_librarys_process_is_refused_before_it_gets_there(tmp_path: Path) -> None:
    model = BYTE_LEVEL["model"] | {"continuing_subword_prefix": "("}
    path = write(tmp_path, BYTE_LEVEL, model=model)
    with pytest.raises(ModelFileError, match="continuing_subword_prefix"):
        load_tokenizer(tokenizer_json=path)
    path.write_text(path.read_text().replace("continuing_subword_prefix", "continuing\\u005fsubword_prefix"))
    with pytest.raises(ModelFileError, match="continuing_subword_prefix"):
        load_tokenizer(tokenizer_json=path)
    processor = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "no such", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [],
        "special_tokens": {},
    }
    with pytest.raises(ModelFileError, match="is damaged or of an unknown kind"):
        load_tokenizer(tokenizer_json=write(tmp_path, BYTE_LEVEL, post_processor=processor))


def test_an_unsupported_decoder_is_refused(tmp_path: Path) -> None:
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    with pytest.raises(ModelFileError, match=r'decoder step \{"type": "WordPiece".* is not supported'):
        load_tokenizer(tokenizer_json=write(tmp_path, BYTE_LEVEL, decoder=decoder))


@pytest.mark.parametrize("value", [3, ["<s>"], {"content": None, "x": 1}, {"content": 3}, True])
def test_a_wrong_kind_of_token_in_the_config_is_refused_or_none(tmp_path: Path, value: Any) -> None:
    path = write(tmp_path, BYTE_LEVEL)
    if isinstance(value, dict) and value["content"] is None:
        assert load_tokenizer(tokenizer_json=path, tokenizer_config={"bos_token": value}).bos_token is None
    else:
        with pytest.raises(ModelFileError, match=r"^tokenizer_config.json: bos_token is "):
            load_tokenizer(tokenizer_json=path, tokenizer_config={"bos_token": value})


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_file_with_a_flipped_or_missing_part_loads_or_fails_in_one_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(json.dumps(BYTE_LEVEL).encode())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "tokenizer.json"
    path.write_bytes(content)
    complaint = ""
    try:
        tokenizer = load_tokenizer(tokenizer_json=path)
    except ModelFileError as error:
        complaint = str(error)
    else:
        tokenizer.encode("Hello, world")
    assert "\n" not in complaint


def test_a_huge_text_is_encoded(default_tokenizer: Any) -> None:
    text = " ".join(PLAIN_TEXTS) * 300
    assert len(text) > 2_000_000
    assert default_tokenizer.decode(default_tokenizer.encode(text), skip_special_tokens=False) == text


def test_the_library_is_imported_only_when_a_tokenizer_is_loaded() -> None:
    code = "import sys, ozone.engine.tokenizer; assert not {'tokenizers', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


PADDING = {
    "strategy": {"Fixed": 1_000_000_000}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
    "pad_type_id": 0, "pad_token": "x",
}  # fmt: skip
TRUNCATION = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}


def test_padding_and_truncation_are_left_out_before_the_library_sees_them(tmp_path: Path) -> None:
    plain = load_tokenizer(tokenizer_json=write(tmp_path, BYTE_LEVEL)).encode("some words")
    for changes in ({"padding": PADDING}, {"truncation": TRUNCATION}):
        path = write(tmp_path, BYTE_LEVEL, **changes)
        assert load_tokenizer(tokenizer_json=path).encode("some words") == plain
        spelled = path.read_text().replace('"padding"', '"\\u0070adding"').replace('"trunc', '"\\u0074runc')
        path.write_text(spelled)
        assert load_tokenizer(tokenizer_json=path).encode("some words") == plain


def _replacing(content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": "a"}, "content": content}


@pytest.mark.parametrize(
    "normalizer",
    [
        _replacing("a" * 1000),
        {"type": "Prepend", "prepend": "x" * 100_000},
        {"type": "Sequence", "normalizers": [_replacing("aa")] * 40},
        {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [_replacing("a" * 99)]}]},
    ],
)
def test_a_normalizer_that_multiplies_texts_is_refused(tmp_path: Path, normalizer: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match="its normalizer makes a text over 64 times as long"):
        load_tokenizer(tokenizer_json=write(tmp_path, BYTE_LEVEL, normalizer=normalizer))


def test_a_panic_of_the_library_is_an_error_in_one_line(tmp_path: Path) -> None:
    """Backtracking without end makes the library panic, which is no `Exception` in Python."""
    normalizer = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
    tokenizer = load_tokenizer(tokenizer_json=write(tmp_path, BYTE_LEVEL, normalizer=normalizer))
    for text in ("a" * 40 + "b", "a" * 2000 + "b"):
        with pytest.raises(RequestError, match="the model's tokenizer fails on this text") as caught:
            tokenizer.encode(text)
        assert caught.value.status == 500 and "\n" not in str(caught.value)


def test_a_vocabulary_larger_than_any_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ozone.engine.tokenizer.tokenizer.MAX_VOCABULARY", 100)
    with pytest.raises(ModelFileError, match="the most is 99"):
        load_tokenizer(tokenizer_json=write(tmp_path, BYTE_LEVEL))


def test_a_token_in_a_message_is_escaped(tmp_path: Path) -> None:
    model = {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "\x1b[2J\u202e"]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    with pytest.raises(ModelFileError, match=r"Token `\\x1b\[2J\\u202e` out of vocabulary") as caught:
        load_tokenizer(tokenizer_json=tmp_path / "tokenizer.json")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_a_character_map_that_names_more_bytes_than_it_has_is_refused(
    tmp_path: Path, nested: bool, escaped: bool
) -> None:
    step = {"type": "Precompiled", "precompiled_charsmap": "xxxxxxxxxxxx"}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "NFC"}, step]} if nested else step
    path = write(tmp_path, BYTE_LEVEL, normalizer=normalizer)
    if escaped:
        path.write_text(path.read_text().replace("compiled_charsmap", "compiled\\u005fcharsmap"))
    with pytest.raises(ModelFileError, match=r"precompiled_charsmap names [0-9]{7,} bytes"):
        load_tokenizer(tokenizer_json=path)


def test_padding_beside_deep_nesting_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, BYTE_LEVEL, padding={"strategy": "BatchLongest"})
    deep = "[" * 400 + "]" * 400
    path.write_text(path.read_text().replace("{", '{"deep": ' + deep + ",", 1))
    with pytest.raises(ModelFileError, match="is damaged or of an unknown kind"):
        load_tokenizer(tokenizer_json=path)


def test_a_text_that_the_library_cannot_encode_is_refused(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "no such"}
    tokenizer = load_tokenizer(tokenizer_json=write(tmp_path, BYTE_LEVEL, model=model))
    with pytest.raises(RequestError, match="UNK"):
        tokenizer.encode("wörld")
