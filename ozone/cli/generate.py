"""`ozone generate`: complete a prompt from the command line, streaming."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.engine.sampling_params import SamplingParams
from ozone.entrypoints.console import start_logging
from ozone.entrypoints.startup import StartupTimer, process_start_time
from ozone.errors import RequestError

if TYPE_CHECKING:
    from ozone.engine.outputs import RequestOutput
    from ozone.entrypoints.assemble import LoadedModel

# Flags named like the fields of SamplingParams: (field, type, help).
_SAMPLING_FLAGS: tuple[tuple[str, type, str], ...] = (
    ("max_tokens", int, "most tokens to generate (default 256)"),
    ("min_tokens", int, "fewest tokens to generate"),
    ("temperature", float, "0 is greedy"),
    ("top_p", float, "keep the smallest set of tokens with this much probability"),
    ("top_k", int, "keep the k most likely tokens; 0 keeps all"),
    ("min_p", float, "keep tokens at least this likely, relative to the likeliest"),
    ("repetition_penalty", float, "above 1 discourages tokens that have occurred"),
    ("presence_penalty", float, "-2 to 2, for tokens that were generated"),
    ("frequency_penalty", float, "-2 to 2, for each time a token was generated"),
    ("n", int, "completions to generate"),
    ("logprobs", int, "also show this many likely tokens for each step"),
)


def add_sampling_arguments(parser: argparse.ArgumentParser, *, leave_out: Collection[str] = ()) -> None:
    """Flags for the fields of `SamplingParams`, without those in `leave_out`.

    `--seed` is among the engine's flags: it seeds every request that has no seed of its own.
    """
    group = parser.add_argument_group("sampling")
    for name, kind, text in _SAMPLING_FLAGS:
        if name in leave_out:
            continue
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=kind.__name__.upper(), help=text)
    group.add_argument("--stop", action="append", metavar="TEXT", help="end at this text; may be repeated")
    group.add_argument("--ignore-eos", action="store_true", help="go on after end-of-sequence")


def sampling_changes(namespace: argparse.Namespace) -> dict[str, Any]:
    """The sampling parameters that the user set, by field name of `SamplingParams`."""
    changes: dict[str, Any] = {name: getattr(namespace, name, None) for name, _, _ in _SAMPLING_FLAGS}
    changes["stop"] = namespace.stop
    changes["ignore_eos"] = namespace.ignore_eos or None
    return {name: value for name, value in changes.items() if value is not None}


def main(argv: list[str]) -> int:
    """Generate and print; returns the exit code."""
    timer = StartupTimer(process_start_time())
    parser = ArgumentParser(
        prog="ozone generate",
        description="Complete a prompt. The prompt is an argument, a file (--file), or stdin.",
    )
    parser.add_argument("prompt", nargs="?", help="the prompt; '-' or nothing reads stdin")
    parser.add_argument("--file", type=Path, metavar="PATH", help="read the prompt from this file")
    parser.add_argument("--chat", action="store_true", help="send the prompt as a chat message")
    parser.add_argument("--stats", action="store_true", help="print a line of timings at the end")
    parser.add_argument("--json", action="store_true", help="print one JSON object: text, tokens, timings")
    parser.add_argument("-v", "--verbose", action="store_true", help="show every phase of the start")
    add_sampling_arguments(parser)
    add_engine_arguments(parser, model="flag")
    namespace = parser.parse_args(argv)
    prompt = _read_prompt(namespace)
    changes = {"max_tokens": 256, **sampling_changes(namespace)}
    SamplingParams(**changes)  # a wrong value should not wait for the model to load
    start_logging()

    from ozone.entrypoints.assemble import load

    loaded = load(engine_args(namespace), timer=timer)
    if namespace.verbose:
        print(timer.table(), file=sys.stderr, flush=True)
    params = loaded.default_sampling_params(**changes)
    try:
        return _generate(loaded, prompt, params, namespace)
    finally:
        loaded.engine.shutdown()


def _read_prompt(namespace: argparse.Namespace) -> str:
    if namespace.file is not None:
        if namespace.prompt is not None:
            raise RequestError("give the prompt as an argument or with --file, not both")
        try:
            return str(namespace.file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"--file {namespace.file}: {error}") from error
    if namespace.prompt not in (None, "-"):
        return str(namespace.prompt)
    if namespace.prompt is None and sys.stdin.isatty():
        raise RequestError('no prompt; try: ozone generate "The capital of France is"')
    return sys.stdin.read()


def _generate(loaded: LoadedModel, prompt: str, params: SamplingParams, namespace: argparse.Namespace) -> int:
    from ozone.engine.collector import OutputCollector
    from ozone.entrypoints.streaming import stream

    if namespace.chat:
        ids = loaded.encode_chat([{"role": "user", "content": prompt}])
    else:
        ids = loaded.tokenizer.encode(prompt)
    collector = OutputCollector("generate", prompt, ids, params.n)
    stats = GenerationStats(prompt_tokens=len(ids))
    live = params.n == 1 and not namespace.json
    for delta in stream(loaded.engine, ids, params):
        stats.count(len(delta.token_ids))
        collector.add(delta)
        if delta.error is not None:
            raise RequestError(f"generation failed: {delta.error}")
        if live:
            print(delta.text, end="", flush=True)
    output = collector.output()
    if namespace.json:
        _print_json(output, stats, loaded)
    elif live:
        print()
    else:
        for completion in output.outputs:
            print(f"[{completion.index}] {completion.text}")
    if params.logprobs is not None and not namespace.json:
        _print_logprobs(output)
    if namespace.stats:
        print(f"{loaded.startup.line()}\n{stats.line(loaded.startup)}", file=sys.stderr)
    return 0


@dataclass
class GenerationStats:
    """Times of one generation, in seconds of `time.monotonic`."""

    prompt_tokens: int
    output_tokens: int = 0
    begin: float = field(default_factory=time.monotonic)
    first: float | None = None
    last: float = 0.0
    first_tokens: int = 0

    def count(self, tokens: int) -> None:
        """Note that `tokens` arrived now."""
        self.last = time.monotonic()
        if tokens and self.first is None:
            self.first, self.first_tokens = self.last, tokens
        self.output_tokens += tokens

    @property
    def time_to_first_token(self) -> float:
        return (self.last if self.first is None else self.first) - self.begin

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Rate after the first token; None where there was nothing to measure."""
        if self.first is None or self.last <= self.first:
            return None
        return (self.output_tokens - self.first_tokens) / (self.last - self.first)

    def line(self, startup: StartupTimer | None = None) -> str:
        """The generation as one line; with `startup`, also counted from process start."""
        rate = self.decode_tokens_per_second
        decode = "" if rate is None else f", decode {rate:.1f} tokens/s"
        since_start = ""
        if startup is not None and self.first is not None:
            since_start = f" ({startup.since_start(self.first):.2f} s after process start)"
        return (
            f"{self.prompt_tokens} prompt tokens, {self.output_tokens} output tokens, first token "
            f"{self.time_to_first_token:.3f} s after the request{since_start}{decode}"
        )


def _print_json(output: RequestOutput, stats: GenerationStats, loaded: LoadedModel) -> None:
    import json

    report = {
        "outputs": [
            {
                "index": completion.index,
                "text": completion.text,
                "token_ids": completion.token_ids,
                "finish_reason": completion.finish_reason,
                "stop_reason": completion.stop_reason,
            }
            for completion in output.outputs
        ],
        "prompt_token_ids": output.prompt_token_ids,
        "time_to_first_token_seconds": stats.time_to_first_token,
        "seconds_from_process_start_to_first_token": (
            None if stats.first is None else loaded.startup.since_start(stats.first)
        ),
        "decode_tokens_per_second": stats.decode_tokens_per_second,
        "startup": loaded.startup.report(),
    }
    print(json.dumps(report, ensure_ascii=False))


def _print_logprobs(output: RequestOutput) -> None:
    for completion in output.outputs:
        for token_id, candidates in zip(completion.token_ids, completion.logprobs or [], strict=True):
            ranked = sorted(candidates.items(), key=lambda item: -item[1].logprob)
            shown = "  ".join(
                f"{'*' if candidate == token_id else ''}{entry.decoded_token!r} {entry.logprob:.3f}"
                for candidate, entry in ranked
            )
            print(f"  {shown}")
