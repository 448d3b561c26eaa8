"""The tensors of a GGUF file under Hugging Face's names and in its layout."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from ozone.config.model import ModelConfig
from ozone.errors import ModelFileError, shown
from ozone.weights.gguf_config import ROPE_FREQUENCIES, gguf_family
from ozone.weights.gguf_file import GGUFFile, TensorInfo
from ozone.weights.gguf_names import canonical_name
from ozone.weights.gguf_types import BLOCK_TYPES
from ozone.weights.source import RawTensor

# What these hold is in the config (rope_freqs) or follows from it (attn_rot_embd).
_NOT_WEIGHTS = re.compile(rf"{re.escape(ROPE_FREQUENCIES)}|blk\.[0-9]+\.attn_rot_embd(\.weight)?")
_PERMUTED = re.compile(r"model\.layers\.[0-9]+\.self_attn\.([qk])_proj\.(?:weight|bias)")


class GGUFWeights:
    """A `WeightSource` over one GGUF file. Tensors that no family knows keep their GGUF name."""

    def __init__(self, file: GGUFFile, config: ModelConfig) -> None:
        """`ModelFileError` where a tensor that the model needs is of a type that Ozone cannot read."""
        self._file = file
        self._config = config
        self._family = gguf_family(file)
        self._tensors: dict[str, TensorInfo] = {}
        for name, info in file.tensors.items():
            if _NOT_WEIGHTS.fullmatch(name):
                continue
            canonical = canonical_name(name, self._family)
            if canonical != name and not info.kind.supported:
                raise ModelFileError(
                    f"{file.path}: tensor {shown(name)} has the type {info.kind.name}, which is not supported"
                    f" (supported: {', '.join(BLOCK_TYPES)})"
                )
            self._tensors[canonical] = info

    @property
    def path(self) -> str:
        return str(self._file.path)

    def names(self) -> Collection[str]:
        return self._tensors.keys()

    def get(self, name: str) -> RawTensor:
        info = self._tensors.get(name)
        if info is None:
            raise ModelFileError(f"{self.path}: the tensor {name} is missing")
        data, dtype = self._file.tensor_data(info), info.kind.name
        if self._family.gguf_permuted_qk and (match := _PERMUTED.fullmatch(name)):
            data = self._half_split_rows(info, data, match[1])
        elif self._family.gguf_norm_offset and name.endswith("norm.weight"):
            data, dtype = self._without_offset(info, data), "F32"
        return RawTensor(name, dtype, info.shape, data)

    def release(self) -> None:
        self._file.release()

    def _half_split_rows(self, info: TensorInfo, data: NDArray[np.uint8], which: str) -> NDArray[np.uint8]:
        """Rows of q or k from interleaved rotary order (pairs of neighbours) to Hugging Face's halves.

        A row is a whole number of blocks, so that quantized rows move as bytes.
        """
        config = self._config
        heads = config.num_heads if which == "q" else config.num_kv_heads
        if info.shape[:1] != (heads * config.head_dim,):
            raise ModelFileError(
                f"{self.path}: tensor {shown(info.name)} has the shape {info.shape},"
                f" not rows of {heads} heads of {config.head_dim}"
            )
        if len(info.shape) == 1 and info.kind.block_size > 1:
            raise ModelFileError(
                f"{self.path}: bias {shown(info.name)} is {info.kind.name}; plain numbers are expected"
            )
        rotated = round(config.head_dim * config.rope.partial)
        rows = data.reshape(heads, config.head_dim, -1)
        split = rows.copy()
        split[:, : rotated // 2] = rows[:, 0:rotated:2]
        split[:, rotated // 2 : rotated] = rows[:, 1:rotated:2]
        return split.reshape(-1)

    def _without_offset(self, info: TensorInfo, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A norm's weight as float32, less the 1 that GGUF has added to it."""
        if info.kind.name not in ("F32", "F16"):
            raise ModelFileError(
                f"{self.path}: norm {shown(info.name)} is {info.kind.name}; F32 or F16 is expected"
            )
        stored = data.view("<f4" if info.kind.name == "F32" else "<f2").astype(np.float32)
        return (stored - np.float32(1)).view(np.uint8)
