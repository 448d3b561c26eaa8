"""What a new token means for its sequence: whether it ends there, what text it adds, the delta to send."""

from __future__ import annotations

from ozone.engine.output_text import Detokenizer, add_tokens, finish_text
from ozone.engine.outputs import LogprobsOfToken, RequestDelta
from ozone.engine.request import Request


def advance(request: Request, token_id: int, logprobs: LogprobsOfToken | None, now: float) -> RequestDelta:
    """Append a sampled token. The delta's `finish_reason` is set if the sequence ends with it.

    now: seconds of `time.monotonic`.
    """
    request.token_ids.append(token_id)
    delta = RequestDelta(request.group_id, request.index, "", [token_id])
    if logprobs is not None:
        delta.logprobs = [logprobs]
    if request.last_token_time is None:
        request.metrics.first_token_time = now
        _report_prompt(request, delta)
    request.last_token_time = now
    if token_id in request.end_token_ids:
        delta.finish_reason = "stop"
        delta.stop_reason = None if token_id in request.eos_token_ids else token_id
    elif len(request.token_ids) >= request.max_total_tokens:
        delta.finish_reason = "length"
    detokenizer = request.detokenizer
    if detokenizer is not None:
        if delta.finish_reason is None and request.stops is None:
            # Nearly every token. Weights have just been through the caches: what is not looked at here need
            # not come from memory again.
            delta.text = detokenizer.append(delta.token_ids)
        else:
            _add_text(request, detokenizer, delta)
    return delta


def _report_prompt(request: Request, delta: RequestDelta) -> None:
    delta.num_cached_tokens = request.num_cached_tokens
    if request.wants_prompt_logprobs:
        delta.prompt_logprobs = request.prompt_logprobs
        request.wants_prompt_logprobs = False


def _add_text(request: Request, detokenizer: Detokenizer, delta: RequestDelta) -> None:
    """The text of a token that ended the sequence is left out, unless the request includes it."""
    params, stops = request.group.params, request.stops
    may_stop = request.num_output_tokens > params.min_tokens
    stop: str | None = None
    if delta.finish_reason != "stop" or params.include_stop_str_in_output:
        delta.text, stop = add_tokens(detokenizer, stops, delta.token_ids, may_stop=may_stop)
    if delta.finish_reason is not None and stop is None:
        rest, stop = finish_text(detokenizer, stops, may_stop=may_stop)
        delta.text += rest
    if stop is not None:
        delta.finish_reason = "stop"
        delta.stop_reason = stop
