"""The tensors of a Hugging Face directory: one safetensors file, or several with their index."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from ozone.errors import ModelFileError, shown
from ozone.weights.files import MAX_JSON_BYTES, parse_json_object, read_text
from ozone.weights.safetensors_file import SafetensorsFile
from ozone.weights.source import RawTensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_SHARDS = 4096
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")
FOREIGN_PREFIX = "consolidated"  # the same weights once more, under another naming
_PREFIX = "model."
_EMBEDDING = "embed_tokens.weight"
_HEADS = ("lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight")
_NOT_WEIGHTS = ".rotary_emb.inv_freq"  # a buffer that old checkpoints saved; it follows from the config


class SafetensorsWeights:
    """A `WeightSource` over the safetensors files of one directory."""

    def __init__(self, folder: Path) -> None:
        """Maps and checks every file; `ModelFileError` where one is missing or not sound."""
        self._folder = folder
        if (folder / INDEX).is_file():
            self._where = _open_shards(folder / INDEX)
        else:
            file = SafetensorsFile(single_file(folder))
            self._where = dict.fromkeys(file.tensors, file)
        self._stored = _canonical_names(self._where)
        self._names = [name for name in self._stored if not name.endswith(_NOT_WEIGHTS)]

    @property
    def path(self) -> str:
        return str(self._folder)

    def names(self) -> Collection[str]:
        return self._names

    def get(self, name: str) -> RawTensor:
        stored = self._stored.get(name)
        if stored is None:
            raise ModelFileError(f"{self.path}: the tensor {name} is missing")
        return replace(self._where[stored].get(stored), name=name)

    def release(self) -> None:
        for file in set(self._where.values()):
            file.release()


def _canonical_names(stored: Iterable[str]) -> dict[str, str]:
    """Canonical names of the text model's tensors, and what each is called in its file.

    A checkpoint saved from the bare model lacks the prefix ``model.``; one of a model for images too has
    ``language_model.model.`` or ``model.language_model.``, with other parts beside it. The embedding, which
    every model has, tells which.
    """
    names = list(stored)
    prefix = next((name[: -len(_EMBEDDING)] for name in names if name.endswith(_EMBEDDING)), _PREFIX)
    if prefix == _PREFIX:
        return {name: name for name in names}
    canonical = {}
    for name in names:
        if name in _HEADS:
            canonical["lm_head.weight"] = name
        elif name.startswith(prefix):
            canonical[_PREFIX + name[len(prefix) :]] = name
    return canonical


def single_file(folder: Path) -> Path:
    """The one safetensors file of a directory without an index."""
    if (folder / SINGLE).is_file():
        return folder / SINGLE
    files = sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith(FOREIGN_PREFIX))
    if len(files) == 1:
        return files[0]
    if files:
        raise ModelFileError(f"{folder}: {len(files)} safetensors files, but no {INDEX} that joins them")
    refuse_pickles(folder)
    raise ModelFileError(f"{folder}: no safetensors files")


def _open_shards(index: Path) -> dict[str, SafetensorsFile]:
    weight_map = read_index(index)
    files = {name: SafetensorsFile(index.parent / name) for name in sorted(set(weight_map.values()))}
    for tensor, shard in weight_map.items():
        if tensor not in files[shard].tensors:
            raise ModelFileError(f"{index}: the tensor {shown(tensor)} is not in {shard}")
    return {tensor: files[shard] for tensor, shard in weight_map.items()}


def read_index(index: Path) -> dict[str, str]:
    """Tensor names and the file that each is in, every file one beside the index that exists."""
    weight_map = parse_json_object(read_text(index, 4 * MAX_JSON_BYTES), str(index)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{index}: no weight_map")
    names = {name if isinstance(name, str) else "" for name in weight_map.values()}
    if len(names) > MAX_SHARDS:
        raise ModelFileError(f"{index}: {len(names)} files are more than {MAX_SHARDS}")
    for name in sorted(names):
        if not _SHARD_NAME.fullmatch(name):
            raise ModelFileError(f"{index}: {shown(name)} is not the name of a safetensors file beside it")
        if not (index.parent / name).is_file():
            raise ModelFileError(f"{index}: the file {name} that it names is missing")
    return weight_map


def refuse_pickles(folder: Path) -> None:
    """Raises where a directory's weights are pickles."""
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLED:
            raise pickle_refused(path)


def pickle_refused(path: Path | str) -> ModelFileError:
    """The error for weights that cannot be opened without running what is in them."""
    return ModelFileError(
        f"{path}: pickle files can run code when they are opened; convert the model to safetensors"
    )
