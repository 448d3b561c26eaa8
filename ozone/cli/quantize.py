"""`ozone quantize`: write a quantized checkpoint that Ozone, vLLM and transformers load."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from ozone.bench.workload import count, whole
from ozone.config.command_line import ArgumentParser
from ozone.entrypoints.console import start_logging
from ozone.entrypoints.progress import progress
from ozone.errors import ConfigError, harmless

_DESCRIPTION = """\
Quantize the linear layers of a model and write a checkpoint in the layout of compressed-tensors, layer by
layer: as much memory as one layer takes, and its inputs on the calibration text. Where scales learn, the
whole model is in memory, twice.

schemes (weights, inputs):
  fp8-dynamic    FP8, one scale a row; FP8, one scale a token
  fp8-static     FP8, one scale a matrix; FP8, one scale, found by calibration
  fp8-block      FP8, one scale for 128 x 128; FP8, one scale for 128 columns of a token.
                 Rounded, as those of fp8-static, to serve the calibration text
  int8           INT8, one scale a row; INT8, one scale a token
  int8-static    INT8, one scale a row; INT8, one scale, found by calibration
  int4-g32, int4-g64, int4-g128, int4-channel
                 4 bits, one scale for that many columns of a row, rounded with error feedback (GPTQ) on the
                 calibration text and on what the model itself writes, from which scales and norms
                 then learn to predict what the original does (models of up to 500M weights);
                 inputs as they are
  bf16           nothing is quantized: what a GGUF file holds, as plain numbers"""
# As in `ozone.quantization.recipes`, which imports torch.
SCHEMES = (
    "fp8-dynamic",
    "fp8-static",
    "fp8-block",
    "int8",
    "int8-static",
    "int4-g32",
    "int4-g64",
    "int4-g128",
    "int4-channel",
    "bf16",
)


def main(argv: list[str]) -> int:
    """Run `ozone quantize`; returns the exit code."""
    parser = ArgumentParser(
        prog="ozone quantize",
        usage="ozone quantize MODEL OUT --scheme SCHEME [flags]",
        description=_DESCRIPTION,
    )
    _add_arguments(parser)
    namespace = parser.parse_args(argv)
    start_logging()
    begin = time.monotonic()

    import torch

    from ozone.entrypoints.assemble import keep_freed_memory
    from ozone.entrypoints.quantize import SAMPLE, Request, quantize
    from ozone.quantization.recipes import RECIPES

    recipe = RECIPES[namespace.scheme]
    if namespace.asymmetric:
        if recipe.kind != "int4":
            raise ConfigError(f"--asymmetric: {recipe.name} has no zero points; the int4 schemes have")
        recipe = dataclasses.replace(recipe, symmetric=False)
    if namespace.num_threads is not None:
        torch.set_num_threads(namespace.num_threads)
    keep_freed_memory()
    request = Request(
        model=namespace.model,
        out=namespace.out,
        recipe=recipe,
        ignore=tuple(namespace.ignore),
        calibration=namespace.calibration or SAMPLE,
        calibration_tokens=namespace.calibration_tokens,
        distill_steps=namespace.distill_steps,
        written_tokens=namespace.written_tokens,
        force=namespace.force,
        revision=namespace.revision,
        download_dir=namespace.download_dir,
    )
    with progress("Quantizing", " layers") as report:
        summary = quantize(request, report)
    summary["elapsed_seconds"] = time.monotonic() - begin
    print(harmless(_text(summary)), file=sys.stderr if namespace.json else sys.stdout)
    if namespace.json:
        print(json.dumps(summary))
    return 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="directory, .gguf file, hub id, or smollm2")
    add("out", metavar="OUT", type=Path, help="directory to write")
    add("--scheme", required=True, choices=SCHEMES, metavar="SCHEME", help="see above")
    add("--ignore", action="append", default=[], metavar="NAME", help="leave this linear as it is: a name or "
        "re:PATTERN; several times if need be (lm_head always)")  # fmt: skip
    add("--asymmetric", action="store_true", help="int4: with zero points, a little better and larger")
    add("--calibration", type=Path, metavar="FILE", help="UTF-8 text of the model's use (default: a sample)")
    add("--calibration-tokens", type=count, default=65536, metavar="N", help="of it at most (default: 65536)")
    add("--distill-steps", type=whole, metavar="N", help="int4: windows of the text from which scales and "
        "norms learn (default: 120, or 0 for models of more than 500M weights)")  # fmt: skip
    add("--written-tokens", type=whole, default=49152, metavar="N", help="int4: tokens that the "
        "model writes itself, read beside the text where scales learn (default: 49152)")  # fmt: skip
    add("--force", action="store_true", help="overwrite the model in OUT")
    add("--json", action="store_true", help="print one JSON object on stdout; the rest goes to stderr")
    add("--num-threads", type=count, metavar="N", help="threads (default: usable cores)")
    add("--revision", metavar="REV", help="branch, tag or commit of a hub model")
    add("--download-dir", metavar="DIR", help="where hub models are kept")


def _text(summary: dict[str, Any]) -> str:
    before, after = summary["weight_bytes_before"], summary["weight_bytes_after"]
    calibrated = summary["calibration_tokens"]
    return (
        f"{summary['out']}: {summary['scheme']}, {summary['quantized_linears']} linears quantized, "
        f"{before / 1e6:,.1f} MB of weights became {after / 1e6:,.1f} MB"
        + (f", calibrated on {calibrated:,} tokens" if calibrated else "")
        + f" ({summary['elapsed_seconds']:.1f} s)"
    )
