"""Token ids to text, all at once or as they come: the bytes of each token, and an incremental decoder.

A decoder of the kinds that language models use says for each token which bytes it stands for, and how many
spaces fall away at the start of the text. So text is the tokens' bytes, joined and read as UTF-8; bytes
that can no longer become a character turn into U+FFFD, one for each maximal broken part.
"""

from __future__ import annotations

import json
import re
from codecs import utf_8_decode
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from ozone.errors import ModelFileError, clipped

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>", re.ASCII)
_LONGEST_CHARACTER = 4  # bytes of UTF-8


def byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's alphabet: one printable character for each of the 256 bytes.

    Printable Latin-1 characters stand for themselves, the other bytes, in order, for U+0100 and up.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


class TokenDecoder:
    """What each token adds to the text, as a tokenizer's decoder component defines it.

    Attributes:
        leading_spaces: how many spaces are dropped at the start of a text (sentencepiece's dummy prefix).
    """

    def __init__(self, component: dict[str, Any] | None) -> None:
        """`component` is a `decoder` of tokenizer.json. ModelFileError for a kind that is not supported."""
        self.leading_spaces = 0
        self._replacements: list[tuple[str, str]] = []
        self._byte_tokens = False
        self._alphabet: dict[str, int] | None = None
        self._prefix = b""
        if component is None:  # the library then joins tokens with spaces
            self._prefix, self.leading_spaces = b" ", 1
            return
        fused = False
        for step in component["decoders"] if component["type"] == "Sequence" else [component]:
            match step:
                case {"type": "ByteLevel"} if not self._replacements and not self._byte_tokens:
                    self._alphabet = byte_alphabet()
                case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if not fused:
                    self._replacements.append((old, new))
                case {"type": "ByteFallback"} if not fused:
                    self._byte_tokens = True
                case {"type": "Fuse"}:
                    fused = True
                case {"type": "Strip", "content": " ", "start": int(start), "stop": 0} if fused:
                    self.leading_spaces = start
                case _:
                    raise ModelFileError(
                        f"the tokenizer's decoder step {clipped(json.dumps(step), 80)} is not supported; "
                        "Ozone reads byte-level and sentencepiece-style decoders"
                    )

    def token_bytes(self, token: str) -> bytes:
        """The bytes that a token, spelled as in the vocabulary, adds to the text."""
        if self._alphabet is not None:
            try:
                return bytes([self._alphabet[character] for character in token])
            except KeyError:  # an added token in plain spelling
                return token.encode("utf-8")
        for old, new in self._replacements:
            token = token.replace(old, new)
        if self._byte_tokens and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        return self._prefix + token.encode("utf-8")


class TokenTable(dict[int, bytes]):
    """Token id to bytes, filled on demand. Ids outside the vocabulary and those in `skipped` add no bytes.

    Attributes:
        leading_spaces: as the decoder has it.
        texts: by token id, what those of the tokens asked for before are whose bytes are whole characters. A
            list, since nearly every token is one and a dictionary's parts lie in more places of cold memory.
    """

    def __init__(
        self,
        decoder: TokenDecoder,
        spelling: Callable[[int], str | None],
        vocab_size: int,
        skipped: Collection[int],
    ) -> None:
        super().__init__(dict.fromkeys(skipped, b""))
        self.texts: list[str | None] = [None] * vocab_size
        self.leading_spaces = decoder.leading_spaces
        self._token_bytes = decoder.token_bytes
        self._spelling = spelling
        self._vocab_size = vocab_size

    def __missing__(self, token_id: int) -> bytes:
        if not 0 <= token_id < self._vocab_size:
            return b""  # not kept: the table stays as small as the vocabulary
        token = self._spelling(token_id)
        self[token_id] = data = b"" if token is None else self._token_bytes(token)
        with suppress(UnicodeDecodeError):
            self.texts[token_id] = data.decode("utf-8")
        return data


class IncrementalDetokenizer:
    """Turns a growing sequence of tokens into a growing text.

    All texts returned by `append` and then `flush`, joined, are what decoding prompt and new tokens
    together adds to the prompt's own text. A character comes out once all of its bytes are there.
    """

    __slots__ = ("_pending", "_spaces_to_drop", "_table")

    def __init__(self, table: TokenTable, prompt_token_ids: Sequence[int]) -> None:
        self._table = table
        tail = b""
        for token_id in reversed(prompt_token_ids):
            tail = table[token_id] + tail
            if len(tail) >= _LONGEST_CHARACTER:
                break
        self._spaces_to_drop = table.leading_spaces
        self._pending = b""  # the bytes of an unfinished character, of the prompt's at first
        self._decode(self._drop_spaces(tail))

    def append(self, token_ids: Sequence[int]) -> str:
        """New text that these tokens complete; may be empty."""
        if len(token_ids) == 1 and not self._pending and not self._spaces_to_drop:
            texts, token_id = self._table.texts, token_ids[0]
            if 0 <= token_id < len(texts) and (text := texts[token_id]) is not None:
                return text
        data = b"".join([self._table[token_id] for token_id in token_ids])
        return self._decode(self._drop_spaces(data) if self._spaces_to_drop else data)

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character, else nothing."""
        return self._decode(b"", final=True)

    def _decode(self, data: bytes, final: bool = False) -> str:
        data = self._pending + data
        text, used = utf_8_decode(data, "replace", final)
        self._pending = data[used:]
        return text

    def _drop_spaces(self, data: bytes) -> bytes:
        while self._spaces_to_drop and data:
            if data[:1] != b" ":
                self._spaces_to_drop = 0
                break
            data = data[1:]
            self._spaces_to_drop -= 1
        return data
