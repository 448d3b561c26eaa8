"""`ozone bench perplexity`: how well a model predicts a fixed text, to compare formats of the same model."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ozone.bench.loading import BenchModel, load_for_bench
from ozone.bench.reporting import Reporter, Row, add_report_arguments, header
from ozone.bench.workload import count
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.engine.engine import Engine
from ozone.engine.sampling_params import SamplingParams
from ozone.entrypoints.console import start_logging
from ozone.entrypoints.streaming import stream
from ozone.errors import ConfigError, RequestError

# Beginnings of books that nobody owns any more: Darwin, On the Origin of Species (1859); Newton, Opticks
# (1730); Carroll, Alice's Adventures in Wonderland (1865).
TEXT = Path(__file__).with_name("data") / "perplexity.txt"
_TOKENS = 20_000
_WINDOW = 2_000


@dataclass(frozen=True)
class Score:
    """Negative log-likelihoods of the tokens of a text, in nats, each given its window so far."""

    losses: Sequence[float]
    seconds: float

    @property
    def mean(self) -> float:
        return math.fsum(self.losses) / len(self.losses)

    @property
    def perplexity(self) -> float:
        return math.exp(self.mean)

    @property
    def standard_error(self) -> float:
        """Of the perplexity, as if tokens were independent: how much another text of this kind would differ.
        Two formats of one model on the same text differ by less.
        """
        variance = math.fsum((loss - self.mean) ** 2 for loss in self.losses) / max(len(self.losses) - 1, 1)
        return self.perplexity * math.sqrt(variance / len(self.losses))


def main(argv: list[str]) -> int:
    """Measure and report; returns the exit code."""
    parser = ArgumentParser(
        prog="ozone bench perplexity",
        description="Perplexity of a model on the first tokens of a fixed text, or of a file: read window\n"
        "by window, each without memory of those before it.",
    )
    group = parser.add_argument_group("text")
    group.add_argument(
        "--text", type=Path, default=TEXT, metavar="FILE", help="UTF-8 text (default: one that comes along)"
    )
    group.add_argument(
        "--tokens", type=count, default=_TOKENS, metavar="N", help=f"tokens of it (default: {_TOKENS})"
    )
    group.add_argument(
        "--window", type=count, default=_WINDOW, metavar="N", help=f"tokens together (default: {_WINDOW})"
    )
    add_report_arguments(parser)
    add_engine_arguments(parser, model="both")
    namespace = parser.parse_args(argv)
    args = engine_args(namespace)
    if namespace.window < 2:
        raise ConfigError("--window: at least 2, since the first token of a window is not predicted")
    text = _read(namespace.text)
    start_logging()
    reporter = Reporter(namespace.json)
    model = load_for_bench(args, reporter)
    try:
        token_ids = model.loaded.tokenizer.encode(text, add_special_tokens=False)[: namespace.tokens]
        windows = split(token_ids, namespace.window, model.loaded.tokenizer.encode(""))
        with reporter.progress("tokens", len(token_ids)) as step:
            score = measure(model.loaded.engine, windows, step)
    finally:
        model.loaded.engine.shutdown()
    parameters = {"text": namespace.text.name, "tokens": len(token_ids), "window": namespace.window}
    _report(model, score, parameters, reporter)
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"--text {path}: {reason}") from error


def split(token_ids: Sequence[int], window: int, prefix: Sequence[int]) -> list[list[int]]:
    """Windows of `window` tokens, each after `prefix`: what the tokenizer puts before every text.

    Raises: `ConfigError` for a text of less than two tokens. A last window of one token is left out.
    """
    if len(token_ids) < 2:
        raise ConfigError("the text has less than two tokens: nothing is predicted")
    windows = [list(token_ids[start : start + window]) for start in range(0, len(token_ids), window)]
    return [[*prefix, *tokens] for tokens in windows if len(tokens) > 1]


def measure(engine: Engine, windows: Sequence[list[int]], step: Any = lambda _: None) -> Score:
    """The losses of every token but the first of each window. `step` is called with tokens done.

    Raises: `RequestError` if the engine refuses or fails a window.
    """
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    losses: list[float] = []
    begin = time.perf_counter()
    for tokens in windows:
        for delta in stream(engine, tokens, params):
            if delta.error is not None:
                raise RequestError(f"a window failed: {delta.error}")
            entries = delta.prompt_logprobs or ()
            for token, entry in zip(tokens, entries, strict=False):
                if entry is not None:
                    losses.append(-entry[token].logprob)
        step(len(tokens))
    return Score(losses, time.perf_counter() - begin)


def _report(model: BenchModel, score: Score, parameters: dict[str, Any], reporter: Reporter) -> None:
    results = {
        "perplexity": score.perplexity,
        "standard_error": score.standard_error,
        "mean_loss": score.mean,
        "scored_tokens": len(score.losses),
        "elapsed_seconds": score.seconds,
    }
    report = {**header("perplexity", parameters), "model": model.as_json(), "results": results}
    rows: list[Row] = [
        ("perplexity", f"{score.perplexity:.4f}", f"+- {score.standard_error:.2f} between texts"),
        ("mean loss", f"{score.mean:.5f}", "nats a token"),
        ("time", f"{score.seconds:.1f} s", f"{len(score.losses) / score.seconds:,.0f} tokens/s"),
    ]
    title = f"{model.title}: {len(score.losses):,} tokens of {parameters['text']}"
    reporter.finish(title, rows, report)
