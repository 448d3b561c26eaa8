"""The registry of quantization schemes: how a checkpoint stores the weights of its linears.

A scheme is one file with a class that makes linear methods, and one row here. How a kind of weights is
multiplied, which several schemes share, is a file of its own (`fp8_linear.py`, ...).
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from ozone.config.model import ModelConfig
from ozone.errors import ModelFileError
from ozone.layers.checkpoint import Decoder
from ozone.layers.embedding import TableMethod
from ozone.layers.linear import LinearMethod
from ozone.ops.choice import OpChoice

# quant_method of a checkpoint's quantization_config -> the class that reads it.
SCHEMES: dict[str, str] = {
    "unquantized": "ozone.quantization.unquantized:Unquantized",
    "compressed-tensors": "ozone.quantization.compressed_tensors:CompressedTensors",
    "fp8": "ozone.quantization.fp8:Fp8",
    "gptq": "ozone.quantization.gptq:GPTQ",
    "awq": "ozone.quantization.awq:AWQ",
    "gguf": "ozone.quantization.gguf_linear:GGUF",
}


class Scheme(Protocol):
    """Chooses how each linear and each table of a checkpoint is stored and multiplied. `op` has the functions
    to call for ops that a custom op governs, such as quantizing the input of a linear.
    """

    def __init__(self, config: ModelConfig, op: OpChoice) -> None: ...

    def linear_method(self, name: str) -> LinearMethod:
        """The method for the linear of that checkpoint name (a merged linear goes by its first)."""
        ...

    def table_method(self, name: str) -> TableMethod:
        """The method for the embedding table or output head of that checkpoint name."""
        ...


def scheme_for(config: ModelConfig, op: OpChoice) -> Scheme:
    """The scheme that the checkpoint's `quantization_config` names, or none.

    Raises: `ModelFileError` for a scheme that does not exist here.
    """
    name = "unquantized" if config.quantization is None else str(config.quantization.get("quant_method"))
    if name not in SCHEMES:
        raise ModelFileError(
            f"the model's quantization_config names the scheme {name!r}, which Ozone does not have; "
            f"it has: {', '.join(SCHEMES)}"
        )
    module, _, attribute = SCHEMES[name].partition(":")
    return cast(type[Scheme], getattr(importlib.import_module(module), attribute))(config, op)


def decoders() -> dict[str, Decoder]:
    """A decoder for each stored type that can be turned into plain numbers."""
    from ozone.quantization import gguf, unquantized

    return {**unquantized.DECODERS, **gguf.DECODERS}
