"""`ozone bench isolation`: whether one client's requests stop a server for everybody else."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ozone.bench.child import engine_words
from ozone.bench.isolation_attacks import ATTACKS, Attack, Facts
from ozone.bench.isolation_watch import Watched, Watcher
from ozone.bench.reporting import Reporter, add_report_arguments, header
from ozone.bench.resident import resident_bytes
from ozone.bench.serve_process import OwnServer
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.errors import ConfigError

_DESCRIPTION = """\
Start a server, keep one slow stream going, ask /health every 10 ms, and send hostile but permitted requests
of the largest size, one after another: many prompts with long parameters, 8 MB of text, deep JSON, and more.
The report tells for each how long /health took at most, the longest gap in the stream, and the server's
memory. The exit code is 1 where /health took more than 250 ms, a gap was longer than 500 ms, an answer was
neither 2xx nor 4xx, or the stream lost something."""
MOST_HEALTH_SECONDS = 0.25
MOST_GAP_SECONDS = 0.5
# What an attack leaves behind may hurt a moment later.
_SETTLE_SECONDS = 0.5
_QUIET_SECONDS = 3.0
_ANSWER_SECONDS = 300.0


@dataclass
class Result:
    """An attack and what it did, in seconds and bytes. `statuses`: of its answers, 0 for none."""

    name: str
    begin: float
    statuses: list[int] = field(default_factory=list)
    seconds: float = 0.0
    end: float = 0.0
    peak_bytes: int = 0
    health: float = 0.0
    gap: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def harmless(self) -> bool:
        answered = all(200 <= status < 300 or 400 <= status < 500 for status in self.statuses)
        held = self.health <= MOST_HEALTH_SECONDS and self.gap <= MOST_GAP_SECONDS
        return answered and held and not self.faults


def main(argv: list[str]) -> int:
    """Measure and report; returns the exit code: 1 where an attack did harm."""
    parser = ArgumentParser(prog="ozone bench isolation", description=_DESCRIPTION)
    group = parser.add_argument_group("attacks")
    own = [
        group.add_argument("--filter", default="", metavar="TEXT", help="attacks whose name contains TEXT"),
        group.add_argument("--list", action="store_true", help="list them, and do nothing"),
        add_report_arguments(parser),
    ]
    add_engine_arguments(parser, model="both")
    namespace = parser.parse_args(argv)
    engine_args(namespace)
    attacks = [attack for attack in ATTACKS if namespace.filter in attack.name]
    if not attacks:
        raise ConfigError(f"--filter {namespace.filter}: no attack's name contains it; --list names them")
    if namespace.list:
        print("\n".join(attack.name for attack in attacks))
        return 0
    reporter = Reporter(namespace.json)
    words = engine_words(argv, own)
    reporter.note("starting a server: ozone serve " + " ".join(words))
    with OwnServer(words) as server:
        facts = ask_facts(server.base_url)
        results = run(server.base_url, server.pid, facts, attacks, reporter)
    _report(results, {"filter": namespace.filter}, facts, reporter)
    return 0 if all(result.harmless for result in results) else 1


def ask_facts(base_url: str) -> Facts:
    """What the server itself says of its model: how many tokens it has, when it is asked for none of them."""
    model = json.loads(_exchange(base_url, "GET", "/v1/models", None)[1])["data"][0]
    _, refusal = _exchange(base_url, "POST", "/detokenize", b'{"tokens":[2147483647]}')
    last = re.search(rb"is not a token id, 0 to (\d+)", refusal)
    assert last is not None, refusal
    return Facts(model["id"], int(last[1]) + 1, model["max_model_len"])


def run(
    base_url: str, process: int, facts: Facts, attacks: Sequence[Attack], reporter: Reporter
) -> list[Result]:
    """Attack a server that runs, one attack after another; the first result is that of a quiet time."""
    with Watcher(base_url, facts.model, facts.max_model_len - 64) as watcher:
        quiet = Result("(nothing)", time.monotonic())
        time.sleep(_QUIET_SECONDS)
        quiet.end, quiet.peak_bytes = time.monotonic(), _peak(process)
        results = [quiet]
        with reporter.progress("attacks", len(attacks)) as done:
            for attack in attacks:
                results.append(_attack(base_url, process, facts, attack))
                done()
        watched = watcher.stop()
    for result in results:
        _judge(result, watched)
    return results


def _attack(base_url: str, process: int, facts: Facts, attack: Attack) -> Result:
    body = attack.body(facts)
    _forget_peak(process)
    result = Result(attack.name, time.monotonic())
    with ThreadPoolExecutor(attack.copies) as pool:
        sent = [pool.submit(_status, base_url, attack.path, body) for _ in range(attack.copies)]
        result.statuses = sorted({one.result() for one in sent})
    result.seconds = time.monotonic() - result.begin
    time.sleep(_SETTLE_SECONDS)
    result.end, result.peak_bytes = time.monotonic(), _peak(process)
    return result


def _judge(result: Result, watched: Watched) -> None:
    result.health = watched.longest_poll(result.begin, result.end)
    result.gap = watched.longest_gap(result.begin, result.end)
    result.faults = watched.faults_within(result.begin, result.end)


def _status(base_url: str, path: str, body: bytes) -> int:
    try:
        return _exchange(base_url, "POST", path, body)[0]
    except (OSError, http.client.HTTPException):
        return 0


def _exchange(base_url: str, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
    """Status and beginning of an answer, which is read to its end."""
    parts = urlsplit(base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_ANSWER_SECONDS)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        beginning = answer.read(1 << 16)
        while answer.read(1 << 20):
            pass
        return answer.status, beginning
    finally:
        connection.close()


def _forget_peak(process: int) -> None:
    """Let the peak of resident memory begin again; where the system does not allow it, it stays."""
    with suppress(OSError):
        Path(f"/proc/{process}/clear_refs").write_text("5", encoding="ascii")


def _peak(process: int) -> int:
    return resident_bytes(process).get("peak", 0)


def _report(results: list[Result], parameters: dict[str, Any], facts: Facts, reporter: Reporter) -> None:
    rows = [("", "status", "answer", "/health", "gap", "memory", "")]
    rows += [
        (
            result.name,
            "/".join(str(status or "none") for status in result.statuses),
            f"{result.seconds:.2f} s" if result.statuses else "",
            f"{result.health * 1e3:.0f} ms",
            f"{result.gap * 1e3:.0f} ms",
            f"{result.peak_bytes / 1e6:,.0f} MB",
            "" if result.harmless else "! " + ", ".join(sorted(set(result.faults))[:2]),
        )
        for result in results
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    harmful = sum(not result.harmless for result in results)
    lines = [
        f"{facts.model}: {len(results) - 1} attacks, {harmful} did harm (/health beyond "
        f"{MOST_HEALTH_SECONDS * 1e3:.0f} ms, a gap beyond {MOST_GAP_SECONDS * 1e3:.0f} ms, a fault)"
    ]
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest[:-1], widths[1:-1], strict=True)]
        lines.append("  ".join(["  " + first.ljust(widths[0]), *cells, rest[-1]]).rstrip())
    reporter.show("\n".join(lines), [])
    reporter.finish_json(
        {
            **header("isolation", parameters),
            "model": facts.model,
            "results": [
                {
                    "attack": result.name,
                    "statuses": result.statuses,
                    "answer_seconds": result.seconds,
                    "longest_health_seconds": result.health,
                    "longest_gap_seconds": result.gap,
                    "peak_resident_bytes": result.peak_bytes,
                    "faults": result.faults,
                    "harmless": result.harmless,
                }
                for result in results
            ],
        }
    )
