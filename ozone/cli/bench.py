"""`ozone bench`: finds the benchmark and imports only its module. A new one is a file and a row here."""

from __future__ import annotations

import importlib
from typing import NamedTuple

from ozone.errors import OzoneError


class Benchmark(NamedTuple):
    """One benchmark: its module has `main(argv) -> int` and is imported when it is used."""

    module: str
    help: str


BENCHMARKS: dict[str, Benchmark] = {
    "latency": Benchmark("ozone.bench.latency", "one request: time to first token, decode tokens/s"),
    "throughput": Benchmark("ozone.bench.throughput", "many requests at once: requests/s, tokens/s"),
    "serve": Benchmark("ozone.bench.serve", "load on a server over HTTP: latencies as its clients see them"),
    "isolation": Benchmark("ozone.bench.isolation", "a server attacked with the largest of requests"),
    "startup": Benchmark("ozone.bench.startup", "process start to first token, level by level"),
    "perplexity": Benchmark("ozone.bench.perplexity", "how well a model predicts a fixed text"),
    "kernels": Benchmark("ozone.bench.kernels", "each op, format and shape beside this machine's limit"),
    "fusions": Benchmark("ozone.bench.fusions", "what each fusion saves of a step"),
    "graph": Benchmark("ozone.bench.graph", "where a step's time goes, launch by launch"),
    "host": Benchmark("ozone.bench.host", "what a step costs in Python, beside the model"),
    "memory": Benchmark("ozone.bench.memory", "peak resident memory of a server under load"),
    "threads": Benchmark("ozone.bench.threads", "tails of launches and of torch's products side by side"),
    "machine": Benchmark("ozone.bench.machine", "this machine's limits: read bandwidth, peak of products"),
}

_HELP = """\
Measure Ozone, and this machine's limits beside it.

usage: ozone bench BENCHMARK [MODEL] [flags]

benchmarks:
{benchmarks}

  Benchmarks that load a model take every flag of the engine (-O0 to -O3, --dtype, -cc.KEY=VALUE, ...).
  Each prints a table; with --json one JSON object on stdout, everything else on stderr.

examples:
  ozone bench machine                                  what could be reached here
  ozone bench latency -O1 --input-len 512              one request at level 1
  ozone bench throughput --num-prompts 64              requests together
  ozone bench serve --request-rate 4                   a server of its own under load
  ozone bench serve --base-url http://127.0.0.1:8000   a server that runs
  ozone bench startup --levels 0,2 --runs 10           what a level costs at the start

  ozone bench BENCHMARK --help   the flags of one benchmark
"""


def help_text() -> str:
    """What `ozone bench --help` prints."""
    rows = (f"  {name:<12}{bench.help}" for name, bench in BENCHMARKS.items())
    return _HELP.format(benchmarks="\n".join(rows))


def main(argv: list[str]) -> int:
    """Run one benchmark; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    name, *rest = argv
    if name not in BENCHMARKS:
        raise OzoneError(_unknown(name))
    code: int = importlib.import_module(BENCHMARKS[name].module).main(rest)
    return code


def _unknown(name: str) -> str:
    import difflib

    if name.startswith("-"):
        return f"a benchmark comes first, not {name}: ozone bench {{{','.join(BENCHMARKS)}}} [MODEL] [flags]"
    nearest = difflib.get_close_matches(name, BENCHMARKS, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(BENCHMARKS)}"
    return f"there is no benchmark {name}; {hint}"
