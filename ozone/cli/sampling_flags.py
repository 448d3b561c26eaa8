"""Flags of a command line named like the fields of `SamplingParams`, and the fields that they set."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from ozone.config import values


class SamplingFlag(NamedTuple):
    """One field's flag: how its value is read, what stands for it in help, and a line of help.

    `read` is None for a switch. `repeated`: the flag may be given again, and its values make a list.
    """

    read: Callable[[str], Any] | None
    metavar: str
    help: str
    repeated: bool = False


def _token_ids(text: str) -> list[int]:
    return list(values.integer_list(0)(text, "a list of token ids"))


def _biases(text: str) -> dict[str, Any]:
    return values.mapping(text, "--logit-bias")


SAMPLING_FLAGS: dict[str, SamplingFlag] = {
    "max_tokens": SamplingFlag(int, "N", "most tokens to generate (default 256)"),
    "min_tokens": SamplingFlag(int, "N", "fewest tokens to generate"),
    "temperature": SamplingFlag(float, "T", "0 is greedy"),
    "top_p": SamplingFlag(float, "P", "keep the smallest set of tokens with this much probability"),
    "top_k": SamplingFlag(int, "K", "keep the k most likely tokens; 0 keeps all"),
    "min_p": SamplingFlag(float, "P", "keep tokens at least this likely, relative to the likeliest"),
    "repetition_penalty": SamplingFlag(float, "X", "above 1 discourages tokens that have occurred"),
    "presence_penalty": SamplingFlag(float, "X", "-2 to 2, for tokens that were generated"),
    "frequency_penalty": SamplingFlag(float, "X", "-2 to 2, for each time a token was generated"),
    "logit_bias": SamplingFlag(_biases, "JSON", 'added to the logits of tokens: {"TOKEN_ID": -100 to 100}'),
    "allowed_token_ids": SamplingFlag(_token_ids, "IDS", "sample nothing but these: 1,2,3 or JSON"),
    "bad_words": SamplingFlag(str, "TEXT", "never generate this text; may be repeated", repeated=True),
    "stop": SamplingFlag(str, "TEXT", "end at this text; may be repeated", repeated=True),
    "stop_token_ids": SamplingFlag(_token_ids, "IDS", "end at any of these tokens: 1,2,3 or JSON"),
    "include_stop_str_in_output": SamplingFlag(None, "", "keep the text that ended the output"),
    "ignore_eos": SamplingFlag(None, "", "go on after end-of-sequence"),
    "skip_special_tokens": SamplingFlag(None, "", "leave special tokens out of the text (the default)"),
    "n": SamplingFlag(int, "N", "completions to generate"),
    "logprobs": SamplingFlag(int, "N", "also show this many likely tokens for each step"),
    "logprob_token_ids": SamplingFlag(_token_ids, "IDS", "show these tokens for each step: 1,2,3 or JSON"),
    "prompt_logprobs": SamplingFlag(int, "N", "the same for each token of the prompt"),
}


def add_sampling_arguments(parser: argparse.ArgumentParser, *, leave_out: Collection[str] = ()) -> None:
    """Flags for the fields of `SamplingParams`, without those in `leave_out`.

    `--seed` is among the engine's flags: it seeds every request that has no seed of its own.
    """
    group = parser.add_argument_group("sampling")
    for name, flag in SAMPLING_FLAGS.items():
        spelled = "--" + name.replace("_", "-")
        if name in leave_out:
            continue
        if flag.read is None:
            group.add_argument(spelled, action=argparse.BooleanOptionalAction, default=None, help=flag.help)
            continue
        action = "append" if flag.repeated else "store"
        group.add_argument(spelled, action=action, type=flag.read, metavar=flag.metavar, help=flag.help)


def sampling_changes(namespace: argparse.Namespace) -> dict[str, Any]:
    """The sampling parameters that the user set, by field name of `SamplingParams`."""
    changes = {name: getattr(namespace, name, None) for name in SAMPLING_FLAGS}
    return {name: value for name, value in changes.items() if value is not None}
