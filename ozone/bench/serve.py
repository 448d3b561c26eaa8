"""`ozone bench serve`: load on a server over HTTP, and latencies as its clients see them."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from ozone.bench.child import engine_words
from ozone.bench.reporting import Reporter, Row, add_report_arguments, header, milliseconds
from ozone.bench.serve_client import (
    Outcome,
    Target,
    open_client,
    random_prompts,
    run_load,
    send,
    served_model,
)
from ozone.bench.serve_process import OwnServer
from ozone.bench.statistics import Summary, summary_json
from ozone.bench.workload import (
    Prompt,
    add_length_arguments,
    add_prompt_arguments,
    count,
    read_prompts,
    take,
)
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.errors import ConfigError, OzoneError
from ozone.server.flags import API_KEY_VARIABLES, api_key_from_environment

_DESCRIPTION = """\
Put load on a server and measure what its clients see: time to first token (TTFT), time per output token
(TPOT), time between tokens (ITL), whole requests (E2E).
With --base-url, --host or --port the server is one that runs; without, one is started with the engine's
flags on a free port, and stopped at the end. Traffic goes nowhere else."""

# What the flags of the engine may say of a server that runs.
_OF_ANY_SERVER = {"model.model", "model.seed"}


@dataclass(frozen=True)
class Run:
    """The requests of a run and the seconds from the first to the end of the last.

    `client_seconds`: of a processor's time that the client itself took meanwhile.
    """

    target: Target
    outcomes: list[Outcome]
    client_seconds: float

    @property
    def completed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.error is None]

    @property
    def failures(self) -> Counter[str]:
        return Counter(outcome.error for outcome in self.outcomes if outcome.error is not None)

    @property
    def seconds(self) -> float:
        return max(o.finished for o in self.outcomes) - min(o.sent for o in self.outcomes)


def main(argv: list[str]) -> int:
    """Measure and report; returns the exit code: 1 where a request failed."""
    parser = ArgumentParser(prog="ozone bench serve", description=_DESCRIPTION)
    own = _add_arguments(parser)
    add_engine_arguments(parser, model="both")
    namespace = parser.parse_args(argv)
    args = engine_args(namespace)
    base_url = _base_url(namespace)
    if base_url is not None:
        settings, _ = args.user_settings()
        others = {user.flag: None for key, user in settings.items() if key not in _OF_ANY_SERVER}
        if others:
            raise ConfigError(f"a server that runs has its own settings; leave out {', '.join(others)}")
    given = None if namespace.dataset_path is None else read_prompts(namespace.dataset_path)
    reporter = Reporter(namespace.json)
    parameters = _parameters(namespace)
    parameters["seed"] = 0 if args.seed is None else int(args.seed)
    target = Target(
        base_url or "", namespace.endpoint, args.model or "", namespace.output_len, namespace.api_key
    )
    if given is not None and target.chat and not all(isinstance(prompt, str) for prompt in given):
        raise ConfigError(f"--dataset-path {namespace.dataset_path}: a chat takes texts, not token ids")
    with contextlib.ExitStack() as stack:
        if base_url is None:
            words = engine_words(argv, own)
            reporter.note("starting a server: ozone serve " + " ".join(words))
            server = stack.enter_context(OwnServer(words, api_key=namespace.api_key))
            # It goes by the name that its flags give it, which it will say itself.
            target = replace(target, base_url=server.base_url, model="")
        run = asyncio.run(measure(target, parameters, given, reporter))
    _report(run, parameters, reporter)
    return 1 if run.failures else 0


def _add_arguments(parser: ArgumentParser) -> list[argparse.Action]:
    """Add the benchmark's own flags, and return them: all others are the engine's."""
    server = parser.add_argument_group("server").add_argument
    load = parser.add_argument_group("load").add_argument
    key = api_key_from_environment()
    variables = " or ".join(f"${name}" for name in API_KEY_VARIABLES)
    endpoint = "/v1/completions"
    rate = "arrivals a second, at random as a Poisson process; inf (default) sends all at once"
    return [
        server("--base-url", metavar="URL", help="a server that runs, such as http://127.0.0.1:8000"),
        server("--host", help="the same by host (default: 127.0.0.1)"),
        server("--port", type=int, help="and port (default: 8000)"),
        server("--endpoint", default=endpoint, metavar="PATH", help=f"{endpoint} or /v1/chat/completions"),
        server("--api-key", default=key, metavar="KEY", help=f"its key (default: {variables})"),
        load("--request-rate", type=_rate, default=math.inf, metavar="RATE", help=rate),
        load(
            "--max-concurrency", type=count, metavar="N", help="requests under way at a time (default: all)"
        ),
        *add_length_arguments(parser, input_len=128, output_len=64),
        *add_prompt_arguments(parser, num_prompts=32),
        add_report_arguments(parser),
    ]


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not rate > 0:
        raise argparse.ArgumentTypeError(f"{text}: requests a second, more than 0, or inf")
    return rate


def _base_url(namespace: argparse.Namespace) -> str | None:
    """Where the server runs, without ``/v1``; None to start one."""
    if namespace.base_url is not None:
        if namespace.host is not None or namespace.port is not None:
            raise ConfigError("the server is named twice: give --base-url, or --host and --port")
        url = str(namespace.base_url).rstrip("/")
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--base-url {url}: must start with http:// or https://")
        return url.removesuffix("/v1")
    if namespace.host is None and namespace.port is None:
        return None
    host = namespace.host or "127.0.0.1"
    port = 8000 if namespace.port is None else namespace.port
    if not 0 < port < 65536:
        raise ConfigError(f"--port {port}: a server listens on a port from 1 to 65535")
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _parameters(namespace: argparse.Namespace) -> dict[str, Any]:
    random = namespace.dataset_path is None
    return {
        "endpoint": namespace.endpoint,
        "num_prompts": namespace.num_prompts,
        "input_len": namespace.input_len if random else None,
        "output_len": namespace.output_len,
        "dataset_path": None if random else str(namespace.dataset_path),
        # JSON has no infinity.
        "request_rate": namespace.request_rate if math.isfinite(namespace.request_rate) else None,
        "max_concurrency": namespace.max_concurrency,
    }


async def measure(
    target: Target, parameters: dict[str, Any], given: list[Prompt] | None, reporter: Reporter
) -> Run:
    """Send a load, after a first request that is not part of it.

    Args:
        parameters: ``num_prompts``, ``input_len``, ``request_rate``, ``max_concurrency`` and ``seed``.
        given: prompts; random ones of ``input_len`` tokens where there are none.
    """
    number, seed = parameters["num_prompts"], parameters["seed"]
    with contextlib.closing(open_client(target.base_url, target.api_key)) as client:
        target = replace(target, model=target.model or await served_model(client))
        if given is None:
            length = parameters["input_len"]
            first, *prompts = await random_prompts(client, target, number + 1, length, seed)
        else:
            first, prompts = given[0], take(given, number)
        # The first request of a server pays for what is built lazily; it is not part of the load.
        trial = await send(client, replace(target, output_len=min(4, target.output_len)), first)
        if trial.error is not None:
            raise OzoneError(f"a first request to {target.base_url}{target.endpoint} failed: {trial.error}")
        with reporter.progress("requests", number) as step:
            before = time.process_time()
            outcomes = await run_load(
                client,
                target,
                prompts,
                request_rate=parameters["request_rate"] or math.inf,
                max_concurrency=parameters["max_concurrency"],
                seed=seed,
                finished=step,
            )
            client_seconds = time.process_time() - before
    return Run(target, outcomes, client_seconds)


def _report(run: Run, parameters: dict[str, Any], reporter: Reporter) -> None:
    done = run.completed
    prompt_tokens = sum(outcome.prompt_tokens for outcome in done)
    output_tokens = sum(outcome.output_tokens for outcome in done)
    times = {
        "time_to_first_token_seconds": [outcome.time_to_first_token for outcome in done],
        "time_per_output_token_seconds": [
            time for outcome in done if (time := outcome.time_per_output_token) is not None
        ],
        "inter_token_latency_seconds": [time for outcome in done for time in outcome.inter_token_latencies],
        "end_to_end_latency_seconds": [outcome.latency for outcome in done],
    }
    results: dict[str, Any] = {
        "completed": len(done),
        "failed": len(run.outcomes) - len(done),
        "failures": dict(run.failures),
        "elapsed_seconds": run.seconds,
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "requests_per_s": len(done) / run.seconds,
        "prompt_tokens_per_s": prompt_tokens / run.seconds,
        "output_tokens_per_s": output_tokens / run.seconds,
        "client_cpu_share": run.client_seconds / run.seconds,
        **{name: summary_json(values) for name, values in times.items()},
    }
    report = {
        **header("serve", parameters),
        "server": {"base_url": run.target.base_url, "model": run.target.model},
        "results": results,
    }
    title = f"{run.target.model} at {run.target.base_url}{run.target.endpoint}: {len(run.outcomes)} requests"
    reporter.finish(title, _rows(results, times), report)


def _rows(results: dict[str, Any], times: dict[str, list[float]]) -> list[Row]:
    rows: list[Row] = [
        ("completed", f"{results['completed']}", f"in {results['elapsed_seconds']:.2f} s"),
        ("requests", f"{results['requests_per_s']:.2f} /s", ""),
        ("prompt tokens", f"{results['prompt_tokens_per_s']:,.1f} /s", ""),
        ("output tokens", f"{results['output_tokens_per_s']:,.1f} /s", ""),
    ]
    for name, values in zip(("TTFT", "TPOT", "ITL", "E2E"), times.values(), strict=True):
        if values:
            summary = Summary.of(values)
            spread = f"p90 {milliseconds(summary.p90)}, p99 {milliseconds(summary.p99)}"
            rows.append((name, milliseconds(summary.median), f"median; {spread}"))
    rows.append(("the client", f"{results['client_cpu_share']:.1%}", "of a core: what measuring took"))
    rows += [("failed", str(number), reason) for reason, number in results["failures"].items()]
    return rows
