"""Rotary embedding layer and its frequencies: plain, linearly scaled, Llama 3's, YaRN (Peng et al., 2023)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ozone.config.model import RopeConfig
from ozone.errors import ConfigError
from ozone.layers.checkpoint import Checkpoint, LoadableLayer
from ozone.layers.options import BuildOptions

_MAX_TABLE_BYTES = 2 << 30  # 4 million positions of 128 columns


class RotaryEmbedding(LoadableLayer):
    """Rotates q and k. One instance serves every layer with the same `RopeConfig`.

    The table of cosines and sines, (max_model_len, rotary_dim) float32, is computed in `load`, beside the
    weights.
    """

    cos_sin: Tensor

    def __init__(self, config: RopeConfig, head_dim: int, options: BuildOptions) -> None:
        """Raises: `ConfigError` where the table would be larger than any sane one."""
        super().__init__()
        self.config = config
        self.rotary_embedding = options.op("rotary_embedding")
        # The share may be a quotient of integers, so allow for its rounding.
        self.rotary_dim = int(head_dim * config.partial + 1e-6)
        max_model_len = options.max_model_len
        longest = _MAX_TABLE_BYTES // (4 * max(self.rotary_dim, 1))
        if max_model_len > longest:
            raise ConfigError(
                f"--max-model-len {max_model_len} needs rotary tables of more than "
                f"{_MAX_TABLE_BYTES >> 30} GB for this model: set it to at most {longest}"
            )
        self.max_model_len = max_model_len
        self.register_buffer("cos_sin", torch.empty(max_model_len, self.rotary_dim, device="meta"))

    def load(self, checkpoint: Checkpoint) -> None:  # noqa: ARG002 (nothing to read)
        self.cos_sin = cos_sin_table(self.config, self.rotary_dim, self.max_model_len)

    def load_cost(self) -> int:
        return self.cos_sin.numel()

    def forward(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        rotated_q, rotated_k = self.rotary_embedding(q, k, positions, self.cos_sin, False)
        return rotated_q, rotated_k


def cos_sin_table(config: RopeConfig, rotary_dim: int, positions: int) -> Tensor:
    """(positions, rotary_dim) float32: cosines, then sines, of rotary_dim / 2 angles per position."""
    frequencies = rope_frequencies(config, rotary_dim)
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies
    table = torch.cat((angles.cos(), angles.sin()), dim=1)
    magnitude = _yarn_magnitude(config) if config.scaling == "yarn" else 1.0
    return table if magnitude == 1.0 else table.mul_(magnitude)


def rope_frequencies(config: RopeConfig, rotary_dim: int) -> Tensor:
    """Radians per position, (rotary_dim / 2,) float32."""
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
    frequencies = 1.0 / config.theta**exponents
    if config.frequency_factors is not None:
        frequencies = frequencies / torch.tensor(config.frequency_factors, dtype=torch.float32)
    if config.scaling == "linear":
        return frequencies / config.factor
    if config.scaling == "llama3":
        return _llama3(frequencies, config)
    if config.scaling == "yarn":
        return _yarn(frequencies, config, rotary_dim)
    return frequencies


def _llama3(frequencies: Tensor, config: RopeConfig) -> Tensor:
    """Long waves are stretched by `factor`, short ones are kept, those between are blended."""
    turns = config.original_max_position * frequencies / (2 * math.pi)
    low, high = config.low_freq_factor, config.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1.0 - keep) * frequencies / config.factor + keep * frequencies


def _yarn(frequencies: Tensor, config: RopeConfig, rotary_dim: int) -> Tensor:
    """Dimensions that turn often within the trained context are kept, those that turn little are stretched
    by `factor`, with a linear ramp between.
    """

    def dimension_of(turns: float) -> float:
        wavelength = config.original_max_position / (turns * 2 * math.pi)
        return rotary_dim * math.log(wavelength) / (2 * math.log(config.theta))

    low = max(math.floor(dimension_of(config.beta_fast)), 0)
    high = min(math.ceil(dimension_of(config.beta_slow)), rotary_dim - 1)
    width = max(high - low, 0.001)
    stretch = ((torch.arange(rotary_dim // 2, dtype=torch.float32) - low) / width).clamp(0.0, 1.0)
    return frequencies / config.factor * stretch + frequencies * (1.0 - stretch)


def _yarn_magnitude(config: RopeConfig) -> float:
    """YaRN's factor on cos and sin, which sharpens attention over long contexts."""
    if config.attention_factor is not None:
        return config.attention_factor
    return 0.1 * math.log(config.factor) + 1.0 if config.factor > 1.0 else 1.0
