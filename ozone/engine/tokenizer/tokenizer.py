"""The tokenizer that the engine and the server see: encode, decode, and detokenizers for streams."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ozone.engine.tokenizer.detokenizer import IncrementalDetokenizer, TokenDecoder, TokenTable
from ozone.engine.tokenizer.panics import panics_as
from ozone.errors import ModelFileError, RequestError

if TYPE_CHECKING:
    import tokenizers


# Tables have an entry for each id; the largest vocabularies in use have 262,144.
MAX_VOCABULARY = 1 << 22
# Characters that are tokenized in less time than other threads notice.
_SHORT = 1024


class Tokenizer:
    """A model's tokenizer. Thread-safe.

    Attributes:
        vocab_size: token ids are 0 to vocab_size - 1. A model's logits may have more columns (padding).
        bos_token_id, eos_token_id: ids that begin and end a sequence, None where there are none.
        bos_token, eos_token: their text.
        special_tokens: text of all that have a name, as chat templates ask for them: bos_token, eos_token,
            unk_token, pad_token, ... without those that the model lacks.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        self._backend = backend
        self.bos_token = bos_token
        self.eos_token = eos_token
        self.special_tokens = dict(special_tokens or {})
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        added = backend.get_added_tokens_decoder()
        self.vocab_size = _vocab_size(backend, max(added, default=-1))
        if self.vocab_size > MAX_VOCABULARY:
            raise ModelFileError(
                f"the tokenizer has token ids up to {self.vocab_size - 1}; the most is {MAX_VOCABULARY - 1}"
            )
        special = [token_id for token_id, token in added.items() if token.special]
        self._special = frozenset(special)
        decoder = TokenDecoder(_component(backend.decoder))
        spelling = backend.id_to_token
        self._all_tokens = TokenTable(decoder, spelling, self.vocab_size, ())
        self._text_tokens = TokenTable(decoder, spelling, self.vocab_size, special)

    def token_id(self, text: str) -> int | None:
        """The id of the token that is spelled like this, if there is one."""
        return self._backend.token_to_id(text)

    def is_special(self, token_id: int) -> bool:
        """Whether a token never stands for text."""
        return token_id in self._special

    def to_json(self) -> str:
        """The content of a ``tokenizer.json``."""
        return self._backend.to_str()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Special tokens written out in the text become their ids.

        Args:
            add_special_tokens: put in what the model's template puts around a text (often only bos).
        Errors: RequestError where the text has lone surrogates, which UTF-8 cannot hold.
        """
        try:
            with panics_as(_failed):
                if len(text) <= _SHORT:
                    return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
                # Unlike `encode`, this lets other threads run meanwhile.
                (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
                return encoding.ids
        except (UnicodeEncodeError, TypeError):
            if not isinstance(text, str):
                raise
            at = next((n for n, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
            if at is None:
                raise
            raise RequestError(
                f"the text is not valid Unicode: a lone surrogate U+{ord(text[at]):04X} at character {at}",
                param="prompt",
            ) from None

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids. RequestError for an id outside the vocabulary."""
        if len(ids) and (min(ids) < 0 or max(ids) >= self.vocab_size):
            wrong = next(token_id for token_id in ids if not 0 <= token_id < self.vocab_size)
            raise RequestError(f"token id {wrong} is outside the vocabulary (0 to {self.vocab_size - 1})")
        detokenizer = self.detokenizer((), skip_special_tokens)
        return detokenizer.append(ids) + detokenizer.flush()

    def token_text(self, token_id: int) -> str:
        """One token as logprobs show it: with its leading space, U+FFFD for a part of a character.

        An id outside the vocabulary, which a model with padded logits can name, is "".
        """
        return self._all_tokens[token_id].decode("utf-8", "replace")

    def token_bytes(self, token_id: int, skip_special_tokens: bool = False) -> bytes:
        """What one token adds to a text; nothing for an id outside the vocabulary."""
        return (self._text_tokens if skip_special_tokens else self._all_tokens)[token_id]

    def token_spelling(self, token_id: int) -> str:
        """One token as the vocabulary spells it, such as ``Ġis``; "" for an id that has none."""
        return (self._backend.id_to_token(token_id) or "") if 0 <= token_id < self.vocab_size else ""

    def detokenizer(
        self, prompt_token_ids: Sequence[int], skip_special_tokens: bool = True
    ) -> IncrementalDetokenizer:
        """A decoder for the tokens that follow a prompt, whose ids need not decode to whole characters."""
        table = self._text_tokens if skip_special_tokens else self._all_tokens
        return IncrementalDetokenizer(table, prompt_token_ids)


def _failed(what: str) -> RequestError:
    return RequestError(f"the model's tokenizer fails on this text: {what}", param="prompt", status=500)


def _component(component: tokenizers.decoders.Decoder | None) -> dict[str, object] | None:
    """A component of a tokenizer as tokenizer.json spells it."""
    return None if component is None else json.loads(component.__getstate__())


def _vocab_size(backend: tokenizers.Tokenizer, last_added: int) -> int:
    """One more than the highest id. Ids may have holes, and the library only counts tokens."""
    size = max(backend.get_vocab_size(with_added_tokens=True), last_added + 1)
    while backend.id_to_token(size) is not None:
        size += 1
    return size
