"""What a model needs to know besides its config in order to be built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ozone.layers.embedding import TableMethod
from ozone.layers.linear import LinearMethod
from ozone.ops.choice import OpChoice


@dataclass(frozen=True)
class BuildOptions:
    """Choices of a run, as opposed to facts of a checkpoint.

    Attributes:
        dtype: type of activations and of weights that are not quantized.
        max_model_len: longest context, in tokens: rows of the rotary tables.
        linear_method: how the weights of the linear of that checkpoint name are stored and multiplied.
        table_method: the same for the embedding or output table of that checkpoint name.
        op: the function to call for the op of that name.
        kv_cache_dtype: type of the KV cache, as the setting has it.
    """

    dtype: torch.dtype
    max_model_len: int
    linear_method: Callable[[str], LinearMethod]
    table_method: Callable[[str], TableMethod]
    op: OpChoice
    kv_cache_dtype: str = "auto"
