"""Checkpoints with ``quant_method: fp8``: e4m3 weights in blocks of 128 x 128, as DeepSeek and Qwen publish
them (DeepSeek-AI, 2024, arXiv:2412.19437, section 3.3), or with one scale for a matrix.
"""

from __future__ import annotations

from ozone.config.model import ModelConfig
from ozone.errors import shown
from ozone.layers.linear import LinearMethod
from ozone.ops.choice import OpChoice
from ozone.quantization.fp8_linear import Fp8Linear
from ozone.quantization.merged import SchemeByName
from ozone.quantization.skipped import is_skipped, skipped_modules
from ozone.weights.fields import Fields


class Fp8(SchemeByName):
    """Chooses a method for each linear. `ModelFileError` for a config that asks for what Ozone has not."""

    def __init__(self, config: ModelConfig, op: OpChoice) -> None:
        super().__init__()
        fields = Fields(config.quantization or {}, "the model's quantization_config")
        self._skipped = skipped_modules(fields, "modules_to_not_convert", "ignored_layers")
        fields.choice("fmt", ("e4m3", "float8_e4m3fn"), "e4m3")
        # Scales that are powers of two are numbers like others; the inputs' are not rounded to such.
        fields.choice("scale_fmt", ("float", "ue8m0"), "float")
        for key in ("modules_to_convert", "store_dtype"):
            if fields.values.get(key):
                raise fields.fail(key, "is set, which is not supported")
        static = fields.choice("activation_scheme", ("dynamic", "static"), "dynamic") == "static"
        block = fields.values.get("weight_block_size")
        if block not in (None, [128, 128]):
            raise fields.fail("weight_block_size", f"is {shown(block)}; supported: [128, 128], or none")
        if block is not None and static:
            raise fields.fail("activation_scheme", "is static, but weights in blocks take dynamic inputs")
        if block is not None:
            quantized = Fp8Linear(op, weights="block", inputs="group", scale="weight_scale_inv")
        else:
            quantized = Fp8Linear(op, weights="tensor", inputs="static" if static else "token")
        self._quantized = quantized

    def method(self, name: str) -> LinearMethod:
        return self.unquantized if is_skipped(name, self._skipped) else self._quantized
