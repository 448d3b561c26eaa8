"""`ozone bench graph` on a tiny model."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ozone.bench.graph import main
from ozone.bench.graph_page import page
from ozone.errors import ConfigError
from ozone.ops.registry import NATIVE

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
        "nodes": [node, {**node, "share_of_limit": None}],
    }
    tags = Tags(page(hostile, [result])).tags
    assert "script" not in tags and tags.count("rect") == 4


def test_what_cannot_be_measured_is_one_line(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ozone bench graph measures programs"):
        main([str(tiny_model), "-O0", *FAST])
    with pytest.raises(ConfigError, match=r"--html .*: No such file or directory"):
        main([str(tiny_model), "--html", str(tmp_path / "no" / "graph.html"), *FAST])
