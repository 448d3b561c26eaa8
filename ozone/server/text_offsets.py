"""Where in a text its tokens begin, in characters.

A piece of a character begins where the character does; a token that the text lacks begins where the next
one does.
"""

from __future__ import annotations

from collections.abc import Sequence

from ozone.server.interfaces import ServerTokenizer


class TextOffsets:
    """Offsets of the tokens that follow a prompt.

    Args:
        start: where their text begins.
    """

    def __init__(
        self,
        tokenizer: ServerTokenizer,
        prompt_token_ids: Sequence[int],
        *,
        skip_special_tokens: bool = True,
        start: int = 0,
    ) -> None:
        self._detokenizer = tokenizer.detokenizer(prompt_token_ids, skip_special_tokens)
        self._offset = start

    def next(self, token_id: int) -> int:
        """Where the next token begins."""
        offset = self._offset
        self._offset += len(self._detokenizer.append((token_id,)))
        return offset


def offsets_in_prompt(tokenizer: ServerTokenizer, token_ids: Sequence[int], text: str) -> list[int]:
    """Offsets of a prompt's tokens in its text, as it was given.

    Special tokens that the tokenizer put around the text are not in it; those that were written out are.
    """
    detokenizer = tokenizer.detokenizer((), skip_special_tokens=False)
    offset, offsets = 0, []
    for token_id in token_ids:
        offsets.append(min(offset, len(text)))
        is_special = not tokenizer.token_bytes(token_id, True)
        if not is_special or text.startswith(tokenizer.token_text(token_id), offset):
            offset += len(detokenizer.append((token_id,)))
    return offsets
