"""`ozone bench isolation` against the stub: what it attacks with, what it sees, and what it calls harm."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ozone.bench import isolation
from ozone.bench.isolation import Result, main
from ozone.bench.isolation_attacks import ATTACKS, Facts
from ozone.bench.isolation_watch import Watched
from ozone.errors import ConfigError

FACTS = Facts("stub", 258, 256)


class StubServerProcess:
    """Stands for `OwnServer`: the stub of the server's tests in this process."""

    def __init__(self, words: list[str]) -> None:
        sys.path.insert(0, str(Path(__file__).parents[1] / "server"))
        try:
            from server_stubs import make_state, serving
        finally:
            sys.path.pop(0)
        self._serving = serving(make_state(max_model_len=2000))
        self.pid = os.getpid()

    def __enter__(self) -> StubServerProcess:
        running = self._serving.__enter__()
        running.runner.delay = 0.002
        self.base_url = running.url
        return self

    def __exit__(self, *_: object) -> None:
        self._serving.__exit__(None, None, None)


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(isolation, "OwnServer", StubServerProcess)
    monkeypatch.setattr(isolation, "_QUIET_SECONDS", 0.2)
    monkeypatch.setattr(isolation, "_SETTLE_SECONDS", 0.1)
    # How fast a busy machine is belongs to benchmarks.
    monkeypatch.setattr(isolation, "MOST_HEALTH_SECONDS", 30.0)
    monkeypatch.setattr(isolation, "MOST_GAP_SECONDS", 30.0)


@pytest.mark.usefixtures("stubbed")
def test_attacks_are_sent_and_their_harm_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--filter", "8 MB of nested", "--json"]) == 0
    streams = capsys.readouterr()
    quiet, attack = json.loads(streams.out)["results"]
    assert (quiet["attack"], quiet["statuses"]) == ("(nothing)", [])
    assert (attack["attack"], attack["statuses"]) == ("8 MB of nested objects", [400])
    assert attack["longest_health_seconds"] > 0 and attack["longest_gap_seconds"] > 0
    assert attack["faults"] == [] and attack["peak_resident_bytes"] > 1e6
    assert "1 attacks, 0 did harm" in streams.err


@pytest.mark.usefixtures("stubbed")
def test_harm_is_exit_code_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "MOST_HEALTH_SECONDS", 0.0)
    assert main(["--filter", "8 MB of nested"]) == 1
    assert "!" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "harmless"),
    [
        ({}, True),
        ({"statuses": [200, 429]}, True),
        ({"statuses": [500]}, False),
        ({"statuses": [0]}, False),
        ({"health": 0.26}, False),
        ({"gap": 0.51}, False),
        ({"faults": ["the stream broke off"]}, False),
    ],
)
def test_what_harm_is(changes: dict, harmless: bool) -> None:
    assert Result(**{"name": "x", "begin": 0.0, "statuses": [400], **changes}).harmless is harmless


def test_a_time_is_charged_with_what_overlaps_it() -> None:
    watched = Watched(
        polls=[(0.0, 0.1), (0.9, 1.5), (3.0, 9.0)],
        streams=[[0.0, 0.2, 2.5], [2.6, 3.0]],
        faults=[(1.2, "lost")],
    )
    assert watched.longest_poll(1.0, 2.0) == pytest.approx(0.6)
    assert watched.longest_gap(1.0, 2.0) == pytest.approx(2.3)
    assert watched.longest_gap(2.55, 2.7) == pytest.approx(0.4)
    assert watched.faults_within(1.0, 2.0) == ["lost"] and watched.faults_within(2.0, 3.0) == []


def test_attacks_have_names_of_their_own_and_fit_into_a_request() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert all(len(attack.body(FACTS)) <= 8 << 20 for attack in ATTACKS)


def test_the_attacks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [attack.name for attack in ATTACKS]
    with pytest.raises(ConfigError, match="no attack's name contains it"):
        main(["--filter", "kindness"])
