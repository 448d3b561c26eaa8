"""`ozone bench fusions` on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ozone.bench.fusions import FLAGS, Case, main
from ozone.bench.steps import Batch
from ozone.config.schema import PassConfig
from ozone.errors import ConfigError
from ozone.ops.registry import NATIVE

FAST = ["--num-threads", "1", "--rounds", "2", "--batch-sizes", "1,3", "--context-len", "20"]


def test_every_flag_is_a_switch() -> None:
    assert all(getattr(PassConfig(), flag) is False for flag in FLAGS)
    assert {"fuse_norm_quant", "enable_qk_norm_rope_fusion"} <= set(FLAGS)


def test_what_is_saved_is_a_share_of_the_step_of_the_same_round() -> None:
    case = Case(Batch("case", []), plain=[2.0, 4.0], fused={"flag": [1.5, 4.0]})
    assert case.saved("flag") == [0.25, 0.0]


@pytest.mark.skipif(not NATIVE, reason="programs need the native library")
def test_a_run_reports_each_fusion_that_has_places(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny_model), "--prefill-len", "16", "--json", *FAST]) == 0
    streams = capsys.readouterr()
    report = json.loads(streams.out)
    assert report["bench"] == "fusions"
    assert report["parameters"]["batch_sizes"] == [1, 3]
    assert [result["case"] for result in report["results"]] == [
        "decode, 1 at once",
        "decode, 3 at once",
        "prefill, 16 tokens",
    ]
    for result in report["results"]:
        assert result["step_seconds_without_fusions"]["count"] == 2
        assert {fusion["flag"] for fusion in result["fusions"]} == {
            "fuse_add_rms_norm",
            "fuse_rope_kvcache",
            None,
        }
        assert all(fusion["places"] > 0 for fusion in result["fusions"])
        assert all(fusion["saved_share"]["count"] == 2 for fusion in result["fusions"])
    assert set(report["no_places"]) == set(FLAGS) - {"fuse_add_rms_norm", "fuse_rope_kvcache"}
    assert "fuse_norm_quant" in streams.err


def test_what_cannot_be_compared_is_one_line(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="it needs the native library, -O1 or above"):
        main([str(tiny_model), "-O0", *FAST])
    with pytest.raises(SystemExit):
        main([str(tiny_model), "--batch-sizes", "1,x"])


@pytest.mark.skipif(not NATIVE, reason="programs need the native library")
def test_a_prompt_longer_than_the_context_is_one_line(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="are more than --max-model-len 24: set"):
        main([str(tiny_model), "--max-model-len", "24", "--prefill-len", "25", *FAST])
