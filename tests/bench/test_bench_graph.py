"""`ozone bench graph` on a tiny model."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ozone.bench.graph import main
from ozone.bench.graph_doubts import doubts
from ozone.bench.graph_page import colour, page
from ozone.bench.limits import last_level_cache_bytes
from ozone.bench.others import OtherProcesses
from ozone.errors import ConfigError
from ozone.native import library
from ozone.ops.registry import NATIVE

_LIBRARY = library()
NATIVE_KERNELS = list(_LIBRARY.kernels()) if _LIBRARY else []

FAST = [
    "--num-threads",
    "1",
    "--rounds",
    "2",
    "--batch-sizes",
    "1,3",
    "--context-len",
    "20",
    "--prefill-len",
    "9",
]


@pytest.mark.skipif(not NATIVE, reason="programs need the native library")
def test_every_launch_of_a_step_is_there(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny_model), "--json", "--html", str(tmp_path / "graph.html"), *FAST]) == 0
    streams = capsys.readouterr()
    report = json.loads(streams.out)
    assert (report["bench"], report["parameters"]["batch_sizes"]) == ("graph", [1, 3])
    names = ["decode, 1 at once", "decode, 3 at once", "prefill, 9 tokens"]
    assert [result["batch"] for result in report["results"]] == names
    for result, tokens in zip(report["results"], (1, 3, 9), strict=True):
        assert result["tokens"] == tokens
        assert set(result["step_seconds"]) == {"FULL", "PIECEWISE", "NONE"}
        assert all(summary["count"] == 2 for summary in result["step_seconds"].values())
        nodes = result["nodes"]
        assert all(node["seconds"] > 0 for node in nodes)
        products = [node for node in nodes if node["kernel"].startswith("linear")]
        assert all(node["bytes"] > 0 and node["share_of_limit"] > 0 for node in products)
        *layers, head = products
        assert len(layers) == 2 * 4, "two layers: q, k, v as one; output; gate and up as one; down"
        assert all(f"tokens={tokens} " in node["shape"] for node in layers)
        assert f"tokens={1 if tokens == 9 else tokens} " in head["shape"]
        assert nodes[-1]["kernel"] == "sample"
        (attention, _) = [node for node in nodes if node["kernel"] == "attention"]
        requests, context = (1, 9) if tokens == 9 else (tokens, 21)
        assert attention["bytes"] == requests * context * 2 * 2 * 16 * 4, (
            "K and V, 2 heads of 8 float32, padded to 16"
        )
    assert streams.err.count("sum of the launches") == 3
    text = (tmp_path / "graph.html").read_text()
    assert text.count("<rect") > 3 * len(report["results"][0]["nodes"])
    assert "http" not in text and "<script" not in text

    assert main([str(tiny_model), "--nodes", *FAST]) == 0
    table = capsys.readouterr().out
    assert all(f"{place:>3} " in table for place in range(len(report["results"][0]["nodes"])))


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


def test_everything_in_the_page_is_escaped() -> None:
    hostile = '<script>alert("1")</script>'
    node = {"kernel": hostile, "shape": hostile, "seconds": 1e-6, "share_of_limit": 1.5}
    result = {
        "batch": hostile,
        "step_seconds": {hostile: {"median": 1.0}},
        "share_between_launches": 0.01,
        "doubts": [hostile],
        "nodes": [node, {**node, "share_of_limit": None}],
    }
    tags = Tags(page(hostile, [result])).tags
    assert "script" not in tags and tags.count("rect") == 4


def test_a_kernel_has_one_colour_on_every_page_and_for_itself() -> None:
    names = [name for name in NATIVE_KERNELS if not name.startswith(("pack_", "stream_", "peak_"))]
    assert len({colour(name) for name in names}) == len(names)
    nodes = [
        {"kernel": kernel, "shape": "", "seconds": seconds, "share_of_limit": None}
        for kernel, seconds in (("attention", 1e-6), ("linear_int8", 2e-6), ("a new one", 3e-6))
    ]
    for kept in (nodes, nodes[:1], nodes[1:]):
        result = {"batch": "", "step_seconds": {}, "share_between_launches": 0.0, "doubts": [], "nodes": kept}
        text = page("", [result])
        assert all((colour(node["kernel"]) in text) == (node in kept) for node in nodes)
        assert "Not to be believed" not in text


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"others": None}, None),
        ({"between": -0.02, "shares": [1.2, None]}, None),
        ({"others": 0.43}, "other processes took 43% of the cores"),
        ({"shares": [0.5, 5.4, None]}, "a launch reaches 540% of the limit"),
        ({"shares": [5.4], "step_bytes": 1000}, None),
        ({"between": -0.138}, "-13.8% lies between them"),
    ],
)
def test_figures_that_cannot_be_are_doubted(fields: dict, reason: str | None) -> None:
    large = 4 * (last_level_cache_bytes() or 1 << 20)
    quiet = {"others": 0.01, "between": 0.02, "shares": [0.9], "step_bytes": large}
    found = doubts(**{**quiet, **fields})
    assert found == [] if reason is None else reason in found[0]


def test_the_share_of_other_processes_is_read_from_the_system(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    cores = sorted(os.sched_getaffinity(0))

    def write(ticks: int) -> None:
        lines = [f"cpu{core} {ticks} 0 0 9999 0 0 0 0 0 0" for core in (*cores, 10_000)]
        stat.write_text("\n".join(["cpu 1 2 3 4 5 6 7", *lines, "intr 5"]))

    write(100)
    others = OtherProcesses(stat)
    assert others.share() == pytest.approx(0, abs=0.5)
    write(1_000_000)
    assert others.share() == 1.0
    stat.write_text("cpu0 x")
    assert others.share() is None
    assert OtherProcesses(tmp_path / "none").share() is None


def test_what_cannot_be_measured_is_one_line(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ozone bench graph measures programs"):
        main([str(tiny_model), "-O0", *FAST])
    with pytest.raises(ConfigError, match=r"--html .*: No such file or directory"):
        main([str(tiny_model), "--html", str(tmp_path / "no" / "graph.html"), *FAST])
