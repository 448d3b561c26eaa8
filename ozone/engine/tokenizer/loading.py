"""Where tokenizers come from: a tokenizer.json, the cache, or the metadata of a GGUF file."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ozone.engine.tokenizer import cache
from ozone.engine.tokenizer.gguf_vocabulary import fingerprint, read_vocabulary, special_id
from ozone.engine.tokenizer.panics import panics_as
from ozone.engine.tokenizer.rebuild import rebuild, template
from ozone.engine.tokenizer.tokenizer import Tokenizer
from ozone.errors import ModelFileError, clipped, shown

if TYPE_CHECKING:
    import tokenizers

MAX_FILE_BYTES = 256 << 20  # the largest in use, of Gemma 3, has 33 MB
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What GGUF calls their ids. No mask or class token belongs to a model that generates.
_GGUF_IDS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
}
_UNCHECKED_GGUF_IDS = {  # files that name them wrongly run all the same
    "sep_token": "seperator_token_id",  # the format's spelling
    "pad_token": "padding_token_id",
}
_PREFIX = b"continuing_subword_prefix"
_NO_PREFIX = re.compile(rb'"continuing_subword_prefix"\s*:\s*(?:null|"")')
_CHARACTER_MAP = b"precompiled_charsmap"
# An object, which the words as vocabulary entries never have behind them.
_PADS_OR_CUTS = re.compile(rb'"(?:padding|truncation)"\s*:\s*\{')
# Keys of normalizers whose texts are put into what is tokenized, and by how much they may lengthen it.
_PUT_IN = ("content", "prepend")
MAX_GROWTH = 64
_CACHE_VERSION = "2"  # to be raised when a rebuilt tokenizer changes for the same metadata


def load_tokenizer(
    *,
    tokenizer_json: Path | None = None,
    gguf_metadata: Mapping[str, Any] | None = None,
    tokenizer_config: Mapping[str, Any] | None = None,
    cache_dir: Path | None = None,
) -> Tokenizer:
    """Load a tokenizer from its own file, or else rebuild it from GGUF metadata.

    Args:
        tokenizer_json: the file; it goes before the metadata where both are given.
        gguf_metadata: key-values of a GGUF file.
        tokenizer_config: content of tokenizer_config.json, which names bos and eos for a tokenizer.json.
        cache_dir: where rebuilt tokenizers are kept; None keeps none.
    Errors: ModelFileError for a file or metadata that is missing, damaged or of an unknown kind.
    """
    if tokenizer_json is not None:
        return _from_file(tokenizer_json, tokenizer_config or {})
    if gguf_metadata is not None:
        return _from_gguf(gguf_metadata, cache_dir)
    raise ModelFileError("the model has no tokenizer: neither a tokenizer.json nor GGUF metadata")


def _from_file(path: Path, config: Mapping[str, Any]) -> Tokenizer:
    content = _without_dangers(_read(path), str(path))
    backend = _parse(content, str(path))
    bos, eos = _named_token(config, "bos_token"), _named_token(config, "eos_token")
    bos_id = None if bos is None else backend.token_to_id(bos)
    eos_id = None if eos is None else backend.token_to_id(eos)
    add_bos, add_eos = config.get("add_bos_token"), config.get("add_eos_token")
    if add_bos is not None or add_eos is not None:
        before = (bos, bos_id) if add_bos and bos is not None and bos_id is not None else None
        after = (eos, eos_id) if add_eos and eos is not None and eos_id is not None else None
        _set_template(backend, before, after)
    return Tokenizer(
        backend,
        bos_token=bos,
        eos_token=eos,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        special_tokens={
            name: token for name in SPECIAL_TOKENS if (token := _named_token(config, name)) is not None
        },
    )


def _read(path: Path) -> bytes:
    """The whole of a regular file of at most `MAX_FILE_BYTES`."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"{path}: not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise ModelFileError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB, which no tokenizer is")
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer is no reason to hang


def _set_template(
    backend: tokenizers.Tokenizer, bos: tuple[str, int] | None, eos: tuple[str, int] | None
) -> None:
    from tokenizers.processors import TemplateProcessing

    processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    processor.__setstate__(json.dumps(template(bos, eos)).encode())  # its own grammar would split some tokens
    backend.post_processor = processor


def _from_gguf(metadata: Mapping[str, Any], cache_dir: Path | None) -> Tokenizer:
    where = "the tokenizer in the GGUF file"
    ids = {name: special_id(metadata, key) for name, key in _GGUF_IDS.items()}
    bos_id, eos_id = ids["bos_token"], ids["eos_token"]
    key = fingerprint(metadata, _CACHE_VERSION)
    content = cache.read(cache_dir, key) if cache_dir else None
    if content is None:
        rebuilt = rebuild(read_vocabulary(metadata))
        try:
            content = json.dumps(rebuilt, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:
            raise ModelFileError(f"{where} has a token that is not valid Unicode") from None
        backend = _parse(content, where)
        if cache_dir:
            cache.write(cache_dir, key, content)
    else:
        backend = _parse(content, where)
    for name, key in _UNCHECKED_GGUF_IDS.items():
        value = metadata.get(f"tokenizer.ggml.{key}")
        ids[name] = int(value) if isinstance(value, (int, np.integer)) and 0 <= value < 1 << 32 else None
    texts = {name: backend.id_to_token(n) for name, n in ids.items() if n is not None}
    special_tokens = {name: text for name, text in texts.items() if text is not None}
    return Tokenizer(
        backend,
        bos_token=special_tokens.get("bos_token"),
        eos_token=special_tokens.get("eos_token"),
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        special_tokens=special_tokens,
    )


def _parse(content: bytes, where: str) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend

    def damaged(what: str) -> ModelFileError:
        return ModelFileError(f"{where} is damaged or of an unknown kind: {what}")

    with panics_as(damaged):
        try:
            backend = Backend.from_buffer(content)
            _check_normalizer(backend, where)
            backend.encode("a")  # components that do not fit together fail only when they are used
        except ModelFileError:
            raise
        except Exception as error:
            raise damaged(clipped(str(error))) from None
    return backend


def _check_normalizer(backend: tokenizers.Tokenizer, where: str) -> None:
    """Refuse one that makes texts many times as long: replacements multiply along a sequence."""
    if backend.normalizer is None:
        return
    growth = 1
    steps = [json.loads(backend.normalizer.__getstate__())]
    while steps:
        step = steps.pop()
        steps += step.get("normalizers", [])
        growth *= max([1, *(len(text) for name in _PUT_IN if isinstance(text := step.get(name), str))])
        if growth > MAX_GROWTH:
            raise ModelFileError(f"{where}: its normalizer makes a text over {MAX_GROWTH} times as long")


def _without_dangers(content: bytes, where: str) -> bytes:
    """A tokenizer.json without padding and truncation, which would be applied before they are switched off.

    Refuses one on which the library, as of 0.23, ends the process: a BPE model with a prefix, a character
    map that lies about its size. Parsing a large file twice would cost tenths of a second, so it is done
    only where such keys might be set: mentioned with a value, or hidden behind an escape.
    """
    hidden = b"\\u" in content or _CHARACTER_MAP in content
    prefixed = content.count(_PREFIX) != len(_NO_PREFIX.findall(content))
    if not hidden and not prefixed and _PADS_OR_CUTS.search(content) is None:
        return content
    import orjson

    try:
        document = orjson.loads(content)
        prefix = document["model"].get("continuing_subword_prefix")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{where} is damaged or of an unknown kind: {clipped(str(error))}") from None
    if prefix:
        raise ModelFileError(
            f"{where}: a model with continuing_subword_prefix {shown(prefix)} is not supported"
        )
    _check_character_maps(document.get("normalizer"), where)
    if document.get("padding") is None and document.get("truncation") is None:
        return content
    document |= {"padding": None, "truncation": None}
    try:
        return orjson.dumps(document)
    except TypeError as error:  # it reads deeper nesting than it writes
        raise ModelFileError(f"{where} is damaged or of an unknown kind: {clipped(str(error))}") from None


def _check_character_maps(normalizer: object, where: str) -> None:
    """Refuse a map of sentencepiece's that names more bytes than it has: the library would reserve them."""
    steps = [normalizer]
    while steps:
        step = steps.pop()
        if not isinstance(step, dict):
            continue
        inner = step.get("normalizers")
        steps += inner if isinstance(inner, list) else []
        text = step.get(_CHARACTER_MAP.decode())
        if not isinstance(text, str):
            continue
        try:
            named = int.from_bytes(base64.b64decode(text[:8]), "little") & 0xFFFFFFFF
        except ValueError:
            continue  # the library says so in one line
        if named > len(text):
            raise ModelFileError(
                f"{where}: precompiled_charsmap names {named} bytes, more than it has characters"
            )


def _named_token(config: Mapping[str, Any], name: str) -> str | None:
    """A special token of tokenizer_config.json: its text, or an object whose `content` that is."""
    value = config.get(name)
    if isinstance(value, Mapping):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise ModelFileError(f"tokenizer_config.json: {name} is {shown(value)}, not the text of a token")
    return value
