"""One choice of `/v1/completions` while it is written, in one piece or many."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from ozone.engine.outputs import CompletionOutput, LogprobsOfToken, RequestDelta
from ozone.server.interfaces import ServerTokenizer
from ozone.server.logprobs import CompletionLogprobs
from ozone.server.requests import CompletionRequest
from ozone.server.text_offsets import TextOffsets, offsets_in_prompt
from ozone.server.token_names import TokenNames


class CompletionPrompt:
    """A prompt and what its choices tell of it.

    Attributes:
        logprobs: None until the engine has sent them, or where nobody asked.
    """

    def __init__(
        self, tokenizer: ServerTokenizer, given: str | list[int], token_ids: list[int], *, skip_special: bool
    ) -> None:
        self.token_ids = token_ids
        self.logprobs: Sequence[LogprobsOfToken | None] | None = None
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._text = given if isinstance(given, str) else None
        self._offsets: list[int] | None = None

    def text(self) -> str:
        """The prompt as it was given, or the text of its tokens. Not before the engine has checked them."""
        if self._text is None:
            self._text = self._tokenizer.decode(self.token_ids, self._skip_special)
        return self._text

    def offsets(self) -> list[int]:
        """Where in `text` each token begins."""
        if self._offsets is None:
            self._offsets = offsets_in_prompt(self._tokenizer, self.token_ids, self.text())
        return self._offsets

    def offsets_after(self, start: int) -> TextOffsets:
        """Of the tokens that follow it, in a text in which they begin at `start`."""
        return TextOffsets(
            self._tokenizer, self.token_ids, skip_special_tokens=self._skip_special, start=start
        )


class CompletionChoice:
    """Writes one completion of one prompt."""

    def __init__(
        self, index: int, prompt: CompletionPrompt, body: CompletionRequest, names: TokenNames
    ) -> None:
        self._index = index
        self._prompt = prompt
        self._body = body
        self._started = False
        self._text_length = 0
        self._logprobs: CompletionLogprobs | None = None
        if body.logprobs is not None:
            self._logprobs = CompletionLogprobs(
                names, -1 if body.logprob_token_ids else body.logprobs, waits_for_text=bool(body.stop)
            )
            self._offsets = prompt.offsets_after(len(prompt.text()) if body.echo else 0)

    def piece(self, part: RequestDelta | CompletionOutput) -> dict[str, Any]:
        """The JSON value for what came next."""
        is_score = self._body.max_tokens == 0  # The engine had to take a step; its token is left out.
        text = "" if is_score else part.text
        token_ids = [] if is_score else part.token_ids
        if self._body.echo and not self._started:
            text = self._prompt.text() + text
            self._add_prompt()
        self._text_length += len(text)
        if self._logprobs is not None and not is_score and part.logprobs:
            self._logprobs.add(token_ids, part.logprobs, self._offsets.next)
        wants_ids = self._body.return_token_ids
        piece = {
            "index": self._index,
            "text": text,
            "logprobs": self._logprobs
            and self._logprobs.piece(self._text_length, ended=part.finish_reason is not None),
            "finish_reason": part.finish_reason and "length" if is_score else part.finish_reason,
            "stop_reason": None if is_score else part.stop_reason,
            "token_ids": token_ids if wants_ids else None,
            "prompt_token_ids": self._prompt.token_ids if wants_ids and not self._started else None,
        }
        self._started = True
        return piece

    def _add_prompt(self) -> None:
        if self._logprobs is not None and self._prompt.logprobs is not None:
            offsets = itertools.chain(self._prompt.offsets())
            self._logprobs.add(self._prompt.token_ids, self._prompt.logprobs, lambda _: next(offsets))
