"""From a model to its quantized checkpoint, layer by layer: safetensors in the layout of compressed-tensors,
``config.json`` with its ``quantization_config``, and the tokenizer's files.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ozone.engine.tokenizer import Tokenizer, load_tokenizer
from ozone.entrypoints.calibration import LayerByLayer
from ozone.entrypoints.distillation import distill
from ozone.entrypoints.written_text import written_windows
from ozone.errors import ConfigError, ModelFileError
from ozone.layers.checkpoint import Checkpoint
from ozone.layers.linear import Linear
from ozone.models import build_model
from ozone.quantization import decoders
from ozone.quantization.compressed_tensors import Target
from ozone.quantization.learned_scales import IntegerMatrix
from ozone.quantization.observers import Observer
from ozone.quantization.recipes import TORCH_TYPES, Recipe
from ozone.weights.files import read_json_object
from ozone.weights.hf_config_writer import hf_config
from ozone.weights.model_files import ModelFiles, open_model
from ozone.weights.safetensors_source import INDEX
from ozone.weights.safetensors_writer import PlannedTensor, SafetensorsWriter
from ozone.weights.source import RawTensor, WeightSource

# Prose, dialogue, code, numbers, lists and a few languages, written for this purpose, between parts of works
# that nobody owns any more: Carroll, Alice's Adventures in Wonderland (1865); Shakespeare, As You Like It;
# Milton, Paradise Lost (1667).
SAMPLE = Path(__file__).with_name("data") / "calibration.txt"
_STAGING = ".ozone-quantize-"
_WINDOW = 512
_LEAST_TOKENS = 64
# A model that is larger loses less to rounding, and its steps take longer.
_DISTILL_STEPS = 120
_DISTILL_WEIGHTS = 500_000_000
# What the model writes itself begins as so many tokens of the calibration text do.
_BEGINNING = 16
_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# What a directory in Hugging Face's layout has beside weights and config.json.
_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
)
_LAYER = re.compile(r"model\.layers\.([0-9]+)\.")


@dataclass(frozen=True)
class Request:
    """What to do.

    Attributes:
        model: a directory, a ``.gguf`` file or a hub id.
        out: directory to write.
        ignore: linears to leave as they are, beside lm_head: names, ``re:`` patterns.
        calibration: text that static scales and 4-bit roundings are fitted to.
        calibration_tokens: how much of it, at most.
        distill_steps: windows of it from which the scales of 4-bit weights and the norms learn; None for as
            many as suit the model's size.
        written_tokens: where they learn, about how many tokens the model writes itself, for roundings to be
            fitted to and for them to learn from beside the text.
        force: overwrite what `out` holds of an earlier model.
    """

    model: str
    out: Path
    recipe: Recipe
    ignore: tuple[str, ...] = ()
    calibration: Path = SAMPLE
    calibration_tokens: int = 65536
    distill_steps: int | None = None
    written_tokens: int = 49152
    force: bool = False
    revision: str | None = None
    download_dir: str | None = None


def quantize(
    request: Request, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> dict[str, Any]:
    """Write the checkpoint; returns what was done, as `ozone quantize --json` prints it. `progress` is called
    with layers done, each step of distillation counting as one, and how many there are in all.

    Raises: `OzoneError` for a model, a directory or a text that will not do. What was written is removed.
    """
    files = open_model(request.model, revision=request.revision, download_dir=request.download_dir)
    scheme = (files.config.quantization or {}).get("quant_method", "gguf")
    if scheme != "gguf":  # whose blocks are decoded
        raise ModelFileError(f"{files.path}: is quantized already ({scheme}); start from the original")
    _check_out(request, files)
    work = _Work(request, files)
    request.out.mkdir(parents=True, exist_ok=True)
    for abandoned in request.out.glob(f"{_STAGING}*"):  # by a run that was killed
        shutil.rmtree(abandoned)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=request.out))
    try:
        written = work.write_weights(staging, progress)
        written += _write_small_files(staging, files, work.changes_to_config())
        for name in _stale(request.out, written):
            (request.out / name).unlink()
        for name in written:
            os.replace(staging / name, request.out / name)
    finally:
        shutil.rmtree(staging)
    return {**work.summary(), "files": sorted(written)}


def _check_out(request: Request, files: ModelFiles) -> None:
    out = request.out
    source = files.path if files.path.is_dir() else files.path.parent
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: not a directory")
    if out.exists() and out.resolve() == source.resolve():
        raise ConfigError(f"{out}: is where the model is; name another directory")
    holds = [path for path in out.iterdir() if not path.name.startswith(_STAGING)] if out.exists() else []
    if holds and not request.force:
        raise ConfigError(
            f"{out}: not empty; name another directory, or overwrite the model in it with --force"
        )


def _stale(out: Path, written: Collection[str]) -> list[str]:
    """Weights and tokenizer files of the model that is overwritten. Nothing else is touched."""
    old = [path.name for path in out.glob("*.safetensors")] + [INDEX, *_COPIED]
    return [name for name in old if name not in written and (out / name).is_file()]


class _Work:
    """The plan of a checkpoint, and its execution."""

    def __init__(self, request: Request, files: ModelFiles) -> None:
        self._request = request
        self._files = files
        self._recipe = request.recipe
        self._source = _Overlay(files.open_weights())
        self._checkpoint = Checkpoint(self._source, decoders())
        self._plain = request.recipe.kind == "plain"
        # Of scales, and of whatever has no plain type of its own.
        self._type = "BF16" if self._plain else _TYPES[files.config.dtype]
        self._left_out: list[str] = []
        self._linears = self._chosen_linears()
        self._prefix: list[int] = []  # of every text
        self._text: list[int] = []
        self._windows: list[list[int]] = []
        if request.recipe.observer is not None:
            self._prefix, self._text = _calibration_tokens(request, files)
            size = min(_WINDOW, files.config.max_position) - len(self._prefix)
            starts = range(0, len(self._text), size)
            self._windows = [[*self._prefix, *self._text[start : start + size]] for start in starts]
        self._shapes = {name: self._source.get(name).shape for name in self._source.names()}
        self._bytes_before = sum(self._source.get(name).data.nbytes for name in self._shapes)
        self._bytes_after = 0
        self._matrices: dict[str, IntegerMatrix] = {}
        self._steps = self._distill_steps()
        self._to_write = self._request.written_tokens // _WINDOW if self._steps else 0
        self._written: list[list[int]] = []

    def summary(self) -> dict[str, Any]:
        return {
            "model": self._request.model,
            "out": str(self._request.out),
            "scheme": self._recipe.name,
            "symmetric": self._recipe.symmetric,
            "quantized_linears": len(self._linears),
            "ignored_linears": self._left_out,
            "calibration_tokens": sum(map(len, self._windows)),
            "distill_steps": self._steps,
            "written_tokens": sum(map(len, self._written)),
            "weight_bytes_before": self._bytes_before,
            "weight_bytes_after": self._bytes_after,
        }

    def changes_to_config(self) -> dict[str, Any]:
        """What the checkpoint says of itself, other than its source."""
        if self._plain:
            return {"torch_dtype": "bfloat16"}
        return {"quantization_config": self._recipe.config(["lm_head", *self._request.ignore])}

    def write_weights(self, folder: Path, progress: Callable[[int, int], None]) -> list[str]:
        """Returns the names of the files written."""
        layers = self._files.config.num_layers
        before = self._to_write
        everything = before + layers + self._steps
        if self._to_write:
            self._written = self._write_windows(lambda done: progress(done, everything))
        names = [[name for name in self._shapes if _layer_of(name) == index] for index in range(-1, layers)]
        plan = [tensor for part in names for name in part for tensor in self._planned(name)]
        self._bytes_after = sum(tensor.nbytes for tensor in plan)
        writer = SafetensorsWriter(folder, plan)
        observer = self._recipe.observer
        run = None
        if observer is not None:
            windows = [*self._windows, *self._written]
            run = LayerByLayer(self._files.config, self._source, windows, observer)
        try:
            for name in names[0]:
                self._write_as_is(writer, name)
            for index in range(layers):
                observed = {} if run is None else run.observe(index)
                for name in names[index + 1]:
                    self._write(writer, name, observed)
                if run is not None:
                    run.advance(index, again=self._recipe.sequential)
                self._source.forget()
                progress(before + index + 1, everything)
            written = writer.close()
            if self._steps:
                self._distill(writer, lambda done: progress(before + layers + done, everything))
            return written
        except BaseException:
            writer.abandon()
            raise

    def _distill_steps(self) -> int:
        if self._recipe.kind != "int4":
            return 0
        if self._request.distill_steps is not None:
            return self._request.distill_steps
        weights = sum(math.prod(shape) for shape in self._shapes.values())
        return _DISTILL_STEPS if weights <= _DISTILL_WEIGHTS else 0

    def _distill(self, writer: SafetensorsWriter, progress: Callable[[int], None]) -> None:
        learned = distill(
            self._files.config,
            self._source,
            self._matrices,
            [*self._windows, *self._written],
            self._steps,
            progress,
        )
        for name, tensor in learned.items():
            dtype = self._type_as_is(name) if name in self._shapes else self._type
            writer.rewrite(name, _bytes_of(tensor.to(TORCH_TYPES[dtype])))

    def _write_windows(self, progress: Callable[[int], None]) -> list[list[int]]:
        request, text = self._request, self._text
        apart = max((len(text) - _BEGINNING) // self._to_write, 1)
        places = [i % len(text) for i in range(0, apart * self._to_write, apart)]
        beginnings = [[*self._prefix, *text[i : i + _BEGINNING]] for i in places]
        model = {"model": request.model, "revision": request.revision, "download_dir": request.download_dir}
        size = min(_WINDOW, self._files.config.max_position)
        return written_windows(model, beginnings, size, progress)

    def _chosen_linears(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of each matrix to quantize, by checkpoint name."""
        if self._plain:
            return {}
        config = replace(self._files.config, quantization=None)
        model = build_model(config, dtype=torch.float32, max_model_len=1)
        try:
            ignore = [Target.of(text, "--ignore") for text in self._request.ignore]
        except ModelFileError as error:
            raise ConfigError(str(error)) from None
        chosen: dict[str, tuple[int, int]] = {}
        for module in model.modules():
            if not isinstance(module, Linear):
                continue
            for name, rows in zip(module.names, module.out_sizes, strict=True):
                if any(target.matches(name) for target in ignore):
                    self._left_out.append(name)
                else:
                    self._recipe.check(name, module.in_features)
                    chosen[name] = (rows, module.in_features)
        for target in ignore:
            if not any(target.matches(name) for name in (*self._left_out, "lm_head")):
                raise ConfigError(f"--ignore {target.text}: no linear of this model has that name")
        if not chosen:
            raise ConfigError("--ignore leaves nothing to quantize")
        return chosen

    def _planned(self, name: str) -> list[PlannedTensor]:
        linear = name.removesuffix(".weight")
        if linear not in self._linears or not name.endswith(".weight"):
            return [PlannedTensor(name, self._type_as_is(name), self._shapes[name])]
        stored = self._recipe.stored(*self._linears[linear], self._type)
        return [PlannedTensor(f"{linear}.{part}", *of) for part, of in stored.items()]

    def _type_as_is(self, name: str) -> str:
        """What is not quantized keeps its type; that of GGUF files becomes the model's, norms too."""
        dtype = self._source.get(name).dtype
        return self._type if self._plain or self._files.gguf_metadata is not None else dtype

    def _write_as_is(self, writer: SafetensorsWriter, name: str) -> None:
        tensor = self._source.get(name)
        if tensor.dtype == self._type_as_is(name):
            writer.write(name, tensor.data)
            return
        numbers = self._checkpoint.read([name], [self._shapes[name]], TORCH_TYPES[self._type])
        writer.write(name, _bytes_of(numbers))

    def _write(self, writer: SafetensorsWriter, name: str, observed: Mapping[str, Observer]) -> None:
        linear = name.removesuffix(".weight")
        if linear not in self._linears or not name.endswith(".weight"):
            self._write_as_is(writer, name)
            return
        weight = self._checkpoint.read([name], [self._linears[linear]], torch.float32)
        stored, meant = self._recipe.encode(weight, self._type, observed.get(linear))
        for part, tensor in stored.items():
            writer.write(f"{linear}.{part}", _bytes_of(tensor))
        if self._recipe.sequential:
            self._source.replace(name, meant)
        if self._steps:
            self._matrices[linear] = _integers(meant, stored["weight_scale"])


class _Overlay:
    """A weight source some of whose matrices have been replaced by what their quantized form means."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source
        self._replaced: dict[str, RawTensor] = {}

    @property
    def path(self) -> str:
        return self._source.path

    def names(self) -> Collection[str]:
        return self._source.names()

    def get(self, name: str) -> RawTensor:
        return self._replaced.get(name) or self._source.get(name)

    def replace(self, name: str, weight: Tensor) -> None:
        """`weight`: float32."""
        self._replaced[name] = RawTensor(name, "F32", tuple(weight.shape), _bytes_of(weight))

    def release(self) -> None:
        self._source.release()

    def forget(self) -> None:
        """Hand out everything as it is in its file again, and keep nothing of it in memory."""
        self._replaced.clear()
        self.release()


def _integers(meant: Tensor, scales: Tensor) -> IntegerMatrix:
    """`meant`: (rows, columns), whole multiples of their groups' scales, (rows, groups)."""
    grouped = meant.view(*scales.shape, -1)
    return IntegerMatrix((grouped / scales.unsqueeze(-1)).round_().to(torch.int8), scales)


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    data: NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
    return data


def _layer_of(name: str) -> int:
    match = _LAYER.match(name)
    return -1 if match is None else int(match[1])


def _calibration_tokens(request: Request, files: ModelFiles) -> tuple[list[int], list[int]]:
    """What every text begins with, and the calibration text without it."""
    try:
        text = request.calibration.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"--calibration {request.calibration}: {reason}") from error
    tokenizer = _tokenizer(files)
    prefix = tokenizer.encode("")
    tokens = tokenizer.encode(text, add_special_tokens=False)[: request.calibration_tokens]
    if len(tokens) < _LEAST_TOKENS:
        raise ConfigError(
            f"--calibration {request.calibration}: {len(tokens)} tokens are too few; give at least "
            f"{_LEAST_TOKENS}, better some thousand"
        )
    return prefix, tokens


def _tokenizer(files: ModelFiles) -> Tokenizer:
    return load_tokenizer(
        tokenizer_json=files.tokenizer_json,
        gguf_metadata=files.gguf_metadata,
        tokenizer_config=files.tokenizer_config,
    )


def _write_small_files(folder: Path, files: ModelFiles, changes: Mapping[str, Any]) -> list[str]:
    """config.json and what the tokenizer needs; returns the names of the files written."""
    if files.gguf_metadata is None:
        values = read_json_object(files.path / "config.json")
        if "torch_dtype" in changes:
            values.pop("dtype", None)
        values |= changes
        _write_json(folder / "config.json", values)
        copied = [name for name in _COPIED if (files.path / name).is_file()]
        for name in copied:
            shutil.copyfile(files.path / name, folder / name)
        return ["config.json", *copied]
    values = {**hf_config(files.config, str(files.path)), **changes}
    _write_json(folder / "config.json", values)
    tokenizer = _tokenizer(files)
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    tokenizer_config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": files.config.max_position,
        "clean_up_tokenization_spaces": False,
        **tokenizer.special_tokens,
    }
    if files.chat_template is not None:
        tokenizer_config["chat_template"] = files.chat_template
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    generation = {key: values[key] for key in ("bos_token_id", "eos_token_id") if values[key] is not None}
    _write_json(folder / "generation_config.json", {**generation, **files.generation_config})
    return ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
