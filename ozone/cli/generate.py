"""`ozone generate`: complete a prompt from the command line, streaming."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ozone.cli.answer_text import print_answer
from ozone.cli.logprobs import logprobs_json, logprobs_lines
from ozone.cli.sampling_flags import add_sampling_arguments, sampling_changes
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.engine.sampling_params import SamplingParams
from ozone.entrypoints.console import start_logging
from ozone.entrypoints.startup import StartupTimer, process_start_time
from ozone.errors import RequestError

if TYPE_CHECKING:
    from ozone.config.args import EngineArgs
    from ozone.engine.outputs import RequestOutput
    from ozone.entrypoints.assemble import LoadedModel


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
    args = engine_args(namespace)
    _check(SamplingParams(**changes), args)  # a wrong value should not wait for the model to load
    start_logging()

    from ozone.entrypoints.assemble import load

    loaded = load(args, timer=timer)
    if namespace.verbose:
        print(timer.table(), file=sys.stderr, flush=True)
    params = loaded.default_sampling_params(**changes)
    try:
        return _generate(loaded, prompt, params, namespace)
    finally:
        loaded.engine.shutdown()


def _check(params: SamplingParams, args: EngineArgs) -> None:
    most = 20 if args.max_logprobs is None else int(args.max_logprobs)
    for name in ("logprobs", "prompt_logprobs"):
        count = getattr(params, name) or 0
        if most != -1 and (count > most or count == -1):
            raise RequestError(f"--{name.replace('_', '-')} {count}: the most is {most} (--max-logprobs)")


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
            print_answer(delta.text, end="")
    output = collector.output()
    if namespace.json:
        _print_json(output, stats, loaded)
    elif live:
        print()
    else:
        for completion in output.outputs:
            print_answer(f"[{completion.index}] {completion.text}")
    if not namespace.json:
        _print_logprobs(output, loaded.tokenizer.token_text)
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
                "logprobs": logprobs_json(completion.logprobs),
            }
            for completion in output.outputs
        ],
        "prompt_token_ids": output.prompt_token_ids,
        "prompt_logprobs": logprobs_json(output.prompt_logprobs),
        "time_to_first_token_seconds": stats.time_to_first_token,
        "seconds_from_process_start_to_first_token": (
            None if stats.first is None else loaded.startup.since_start(stats.first)
        ),
        "decode_tokens_per_second": stats.decode_tokens_per_second,
        "startup": loaded.startup.report(),
    }
    print(json.dumps(report, ensure_ascii=False))


def _print_logprobs(output: RequestOutput, token_text: Callable[[int], str]) -> None:
    if output.prompt_logprobs is not None:
        print("prompt:")
        print("\n".join(logprobs_lines(output.prompt_token_ids, output.prompt_logprobs, token_text)))
    for completion in output.outputs:
        if completion.logprobs is not None:
            print(f"output {completion.index}:")
            print("\n".join(logprobs_lines(completion.token_ids, completion.logprobs, token_text)))
