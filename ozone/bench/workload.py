"""What a benchmark asks for: random prompts of a given length, or the prompts of a file; and its flags."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

from ozone.errors import ConfigError

Prompt = str | list[int]
"""A text, or token ids."""


def count(text: str) -> int:
    """An argparse type: a whole number, at least 1."""
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return number


def whole(text: str) -> int:
    """An argparse type: a whole number, at least 0."""
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: not a whole number")
    return int(text)


def random_token_ids(count: int, length: int, vocabulary: Sequence[int], seed: int) -> list[list[int]]:
    """`count` prompts of `length` tokens each out of `vocabulary`; the same for the same seed.

    No two begin alike but by chance, so that a prefix cache has nothing to offer.
    """
    generator = random.Random(seed)
    return [generator.choices(vocabulary, k=length) for _ in range(count)]


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file: one a line, or for ``.jsonl`` a JSON value a line: a text, or an object with
    ``prompt`` (a text) or ``prompt_token_ids``. Empty lines count for nothing.

    Raises: `ConfigError` that names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"--dataset-path {path}: {reason}") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ConfigError(f"--dataset-path {path}: holds no prompt; expected one a line")
    if path.suffix != ".jsonl":
        return [line for _, line in numbered]
    return [_parse(line, f"--dataset-path {path}, line {number}") for number, line in numbered]


def _parse(line: str, where: str) -> Prompt:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: not valid JSON ({error})") from error
    if isinstance(entry, dict):
        entry = entry.get("prompt", entry.get("prompt_token_ids"))
    if isinstance(entry, str) and entry:
        return entry
    if isinstance(entry, list) and entry and all(type(item) is int for item in entry):
        return entry
    raise ConfigError(f'{where}: expected a text, or an object with "prompt" or "prompt_token_ids"')


def take(prompts: Sequence[Prompt], number: int) -> list[Prompt]:
    """`number` prompts: the first ones, and from the beginning again where there are fewer."""
    return [prompts[index % len(prompts)] for index in range(number)]


def add_length_arguments(
    parser: argparse.ArgumentParser, *, input_len: int, output_len: int
) -> list[argparse.Action]:
    """Add `--input-len` and `--output-len` with these defaults, and return them."""
    add = parser.add_argument_group("workload").add_argument
    of_input = f"tokens a prompt (default: {input_len})"
    of_output = f"tokens to generate for each, whatever the model says (default: {output_len})"
    return [
        add("--input-len", type=count, default=input_len, metavar="N", help=of_input),
        add("--output-len", type=count, default=output_len, metavar="N", help=of_output),
    ]


def add_iteration_arguments(
    parser: argparse.ArgumentParser, *, num_iters: int, num_iters_warmup: int
) -> list[argparse.Action]:
    """Add `--num-iters` and `--num-iters-warmup` with these defaults, and return them."""
    add = parser.add_argument_group("measurement").add_argument
    timed = f"timed iterations (default: {num_iters})"
    before = f"iterations before that (default: {num_iters_warmup})"
    return [
        add("--num-iters", type=count, default=num_iters, metavar="N", help=timed),
        add("--num-iters-warmup", type=whole, default=num_iters_warmup, metavar="N", help=before),
    ]


def add_prompt_arguments(parser: argparse.ArgumentParser, *, num_prompts: int) -> list[argparse.Action]:
    """Add `--num-prompts` with this default, and `--dataset-path`; return them."""
    add = parser.add_argument_group("prompts").add_argument
    requests = f"requests (default: {num_prompts})"
    file = "prompts from this file, one a line or .jsonl; --input-len is then unused"
    return [
        add("--num-prompts", type=count, default=num_prompts, metavar="N", help=requests),
        add("--dataset-path", "--dataset", type=Path, metavar="FILE", help=file),
    ]
