"""What a request must satisfy before the engine takes it, and its sequences when it does."""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from ozone.config.schema import SchedulerConfig
from ozone.engine.block_pool import root_hash
from ozone.engine.output_text import Detokenizer
from ozone.engine.outputs import RequestDelta, RequestMetrics
from ozone.engine.prepared_params import PreparedParams, TokenRules
from ozone.engine.random_stream import COMPLETION_STREAM, REQUEST_STREAM, derive_seed
from ozone.engine.request import Request, RequestGroup
from ozone.engine.sampling_params import SamplingParams
from ozone.engine.sampling_state import SamplingState
from ozone.engine.stop_strings import StopMatcher, StopStrings
from ozone.errors import RequestError

if TYPE_CHECKING:
    from ozone.engine.tokenizer import Tokenizer


_NO_TOKENS: frozenset[int] = frozenset()


class Admission:
    """Checks requests against the model and the cache and makes them into sequences. Thread-safe."""

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        scheduler: SchedulerConfig,
        *,
        vocab_size: int,
        cache_tokens: int,
        max_model_len: int,
        eos_token_ids: Collection[int],
        max_logprobs: int,
        seed: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._scheduler = scheduler
        self._vocab_size = vocab_size
        self._cache_tokens = cache_tokens
        self._max_model_len = max_model_len
        self._eos_token_ids = frozenset(eos_token_ids)
        self._max_logprobs = max_logprobs
        self._seed = seed
        self._arrivals = itertools.count()

    def prepare(self, params: SamplingParams) -> PreparedParams:
        """Check the parameters of a user request against the model, and make ready what its prompts share.

        Takes milliseconds where lists are long. Raises RequestError for what can never be served.
        """
        params = params.clone()
        self._check_params(params)
        bad_words = self._bad_word_tokens(params.bad_words or ())
        eos_token_ids = _NO_TOKENS if params.ignore_eos else self._eos_token_ids
        # Most requests share the set: the fewer there are, the warmer they are kept.
        end_token_ids = eos_token_ids | set(params.stop_token_ids) if params.stop_token_ids else eos_token_ids
        self._check_choice_remains(params, bad_words, end_token_ids)
        return PreparedParams(
            params,
            TokenRules(params, end_token_ids=end_token_ids, bad_words=bad_words),
            StopStrings(params.stop_strings) if params.stop_strings else None,
            eos_token_ids,
            end_token_ids,
        )

    def admit(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        prepared: PreparedParams,
        on_delta: Callable[[RequestDelta], None],
        priority: int,
        cache_salt: str | None,
        max_tokens: int | None,
    ) -> RequestGroup:
        """Raises RequestError for what can never be served. `max_tokens`: see `Engine.add_request`."""
        max_total_tokens = self.check(prompt_token_ids, prepared, priority, max_tokens)
        if cache_salt is not None and not (isinstance(cache_salt, str) and cache_salt):
            raise RequestError("cache_salt must be a string that is not empty", param="cache_salt")
        params, stops = prepared.params, prepared.stops
        arrival = next(self._arrivals)
        seed = params.seed
        if seed is None:
            seed = derive_seed(self._seed, arrival, REQUEST_STREAM)
        arrival_time = time.monotonic()
        group = RequestGroup(request_id, list(prompt_token_ids), params, on_delta, root_hash(cache_salt))
        for index in range(params.n):
            token_ids = list(prompt_token_ids)
            sampling = SamplingState(
                params,
                token_ids,
                seed=seed if index == 0 else derive_seed(seed, index, COMPLETION_STREAM),
                vocab_size=self._vocab_size,
                rules=prepared.rules,
            )
            group.unfinished[index] = Request(
                group,
                index,
                token_ids,
                order=(priority, arrival, index),
                max_total_tokens=max_total_tokens,
                eos_token_ids=prepared.eos_token_ids,
                end_token_ids=prepared.end_token_ids,
                sampling=sampling,
                detokenizer=self._detokenizer(token_ids, params),
                stops=StopMatcher(stops, include_stop=params.include_stop_str_in_output) if stops else None,
                metrics=RequestMetrics(arrival_time),
            )
        return group

    def check(
        self,
        prompt_token_ids: list[int],
        prepared: PreparedParams,
        priority: int = 0,
        max_tokens: int | None = None,
    ) -> int:
        """The tokens at which generation ends. Raises RequestError where the request can never be served."""
        self._check_prompt(prompt_token_ids)
        self._check_priority(priority)
        params = prepared.params
        if max_tokens is None:
            max_tokens = params.max_tokens
        elif params.min_tokens > max_tokens:
            raise RequestError(
                f"min_tokens is {params.min_tokens}, but the prompt leaves room for {max_tokens}",
                param="min_tokens",
            )
        return self._max_total_tokens(len(prompt_token_ids), max_tokens)

    def _check_prompt(self, prompt_token_ids: list[int]) -> None:
        if not prompt_token_ids:
            raise RequestError("the prompt is empty: it must hold at least one token", param="prompt")
        try:
            ids = array("q", prompt_token_ids)
        except (TypeError, OverflowError):
            raise RequestError("the prompt must be a list of integer token ids", param="prompt") from None
        for token_id in (min(ids), max(ids)):
            self._check_token_id("prompt", token_id)

    def _check_token_id(self, param: str, token_id: int) -> None:
        if not 0 <= token_id < self._vocab_size:
            raise RequestError(
                f"{param} has token id {token_id}; the model's are 0 to {self._vocab_size - 1}", param=param
            )

    def _check_params(self, params: SamplingParams) -> None:
        for param in ("stop_token_ids", "allowed_token_ids", "logit_bias", "logprob_token_ids"):
            token_ids = getattr(params, param) or ()
            if len(token_ids) > self._vocab_size:
                raise RequestError(
                    f"{param} has {len(token_ids)} entries; the model has {self._vocab_size} tokens",
                    param=param,
                )
            for token_id in (min(token_ids), max(token_ids)) if token_ids else ():
                self._check_token_id(param, token_id)
        for param in ("logprobs", "prompt_logprobs"):
            count = getattr(params, param)
            wanted = self._vocab_size if count == -1 else count or 0
            if self._max_logprobs != -1 and wanted > self._max_logprobs:
                raise RequestError(
                    f"{param} asks for {wanted} tokens; the most is {self._max_logprobs} (max_logprobs)",
                    param=param,
                )
        if self._tokenizer is None and (params.stop_strings or params.bad_words):
            param = "stop" if params.stop_strings else "bad_words"
            raise RequestError(f"{param} needs a tokenizer, and the engine runs without one", param=param)
        if params.n > self._scheduler.max_waiting_requests:
            most = self._scheduler.max_waiting_requests
            raise RequestError(f"n is {params.n}; at most {most} completions may wait", param="n")

    def _check_priority(self, priority: int) -> None:
        policy = self._scheduler.scheduling_policy
        if priority != 0 and policy != "priority":
            raise RequestError(
                f"priority is {priority}, but the scheduling policy is {policy!r}: "
                "priorities need --scheduling-policy priority",
                param="priority",
            )

    def _check_choice_remains(
        self, params: SamplingParams, bad_words: Sequence[list[int]], end_token_ids: Collection[int]
    ) -> None:
        """Some allowed token must be neither a bad word nor, while `min_tokens` bans those, end the text."""
        if params.allowed_token_ids is None:
            return
        left = set(params.allowed_token_ids).difference(*(word for word in bad_words if len(word) == 1))
        if not left:
            raise RequestError(
                "allowed_token_ids holds only tokens that bad_words forbids", param="allowed_token_ids"
            )
        if params.min_tokens and not left.difference(end_token_ids):
            raise RequestError(
                "allowed_token_ids leaves only tokens that end the text, which min_tokens forbids",
                param="allowed_token_ids",
            )

    def _max_total_tokens(self, num_prompt_tokens: int, max_tokens: int | None) -> int:
        """Tokens at which generation ends. The context cuts it short, the cache's size must not."""
        if num_prompt_tokens >= self._max_model_len:
            raise RequestError(
                f"the prompt has {num_prompt_tokens} tokens, and one more is to be generated; "
                f"the context holds {self._max_model_len} (max_model_len)",
                param="prompt",
            )
        if num_prompt_tokens >= self._cache_tokens:
            raise RequestError(
                f"the prompt has {num_prompt_tokens} tokens, and one more is to be generated; "
                f"the KV cache holds {self._cache_tokens}: raise kv_cache_memory_bytes",
                param="prompt",
            )
        most_at_once = self._scheduler.max_num_batched_tokens
        if not self._scheduler.enable_chunked_prefill and num_prompt_tokens > most_at_once:
            raise RequestError(
                f"the prompt has {num_prompt_tokens} tokens; without chunked prefill a step takes "
                f"{most_at_once} (max_num_batched_tokens)",
                param="prompt",
            )
        if max_tokens is None:
            return min(self._max_model_len, self._cache_tokens)
        total = min(num_prompt_tokens + max_tokens, self._max_model_len)
        if total > self._cache_tokens:
            raise RequestError(
                f"prompt and max_tokens make {total} tokens; the KV cache holds {self._cache_tokens}: "
                "lower max_tokens or raise kv_cache_memory_bytes",
                param="max_tokens",
            )
        return total

    def _detokenizer(self, prompt_token_ids: list[int], params: SamplingParams) -> Detokenizer | None:
        if self._tokenizer is None or not params.detokenize:
            return None
        return self._tokenizer.detokenizer(prompt_token_ids, skip_special_tokens=params.skip_special_tokens)

    def _bad_word_tokens(self, bad_words: Collection[str]) -> list[list[int]]:
        """Each word as the tokens it has at the start of a text and, where different, after a space."""
        found: list[list[int]] = []
        if self._tokenizer is None:
            return found
        for word in bad_words:
            bare = self._tokenizer.encode(word.lstrip(), add_special_tokens=False)
            spaced = self._tokenizer.encode(" " + word.lstrip(), add_special_tokens=False)
            if bare:
                found.append(bare)
            if spaced and len(spaced) == len(bare) and spaced[0] != bare[0]:
                found.append(spaced)
        return found
