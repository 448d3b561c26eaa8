"""How answers write a token: as its text, its bytes or its id."""

from __future__ import annotations

from ozone.engine.outputs import LogprobsOfToken
from ozone.server.interfaces import ServerTokenizer

# JSON has no infinity; OpenAI reports the very unlikely as -9999.
LEAST = -9999.0


class TokenNames:
    """The names of tokens in one answer.

    Args:
        as_ids: write each token as ``token_id:7``.
        skip_special_tokens: the answer's text lacks special tokens.
    """

    def __init__(
        self, tokenizer: ServerTokenizer, *, as_ids: bool = False, skip_special_tokens: bool = True
    ) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids
        self._skip_special_tokens = skip_special_tokens

    def text(self, token_id: int, decoded: str | None = None) -> str:
        """A token's text, with U+FFFD for a part of a character. `decoded`: that text, where it is known."""
        if self._as_ids:
            return _id_name(token_id)
        return self._tokenizer.token_text(token_id) if decoded is None else decoded

    def unambiguous(self, token_id: int, decoded: str | None = None) -> str:
        r"""A token's text, or ``bytes:\xf0\x9f`` for a part of a character, as in OpenAI's completions."""
        text = self.text(token_id, decoded)
        if "\ufffd" not in text:
            return text
        data = self._tokenizer.token_bytes(token_id)
        if text.encode() == data:
            return text  # The vocabulary's own U+FFFD.
        return "bytes:" + "".join(map(_byte_name, data))

    def by_name(self, known: LogprobsOfToken, most: int | None) -> dict[str, float]:
        """The first `most` log-probabilities (None: all) by name. Where a name is taken, the id is one."""
        named: dict[str, float] = {}
        for token_id, entry in known.items():
            if len(named) == most:
                break
            name = self.unambiguous(token_id, entry.decoded_token)
            named[_id_name(token_id) if name in named else name] = max(entry.logprob, LEAST)
        return named

    def text_bytes(self, token_id: int) -> list[int]:
        """The bytes that a token adds to the answer's text."""
        return list(self._tokenizer.token_bytes(token_id, self._skip_special_tokens))


def _id_name(token_id: int) -> str:
    return f"token_id:{token_id}"


def _byte_name(byte: int) -> str:
    return chr(byte) if 0x20 <= byte < 0x7F and byte != ord("\\") else f"\\x{byte:02x}"
