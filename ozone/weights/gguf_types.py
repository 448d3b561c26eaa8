"""GGUF's tensor element types as data: name, elements per block, bytes per block.

Types that Ozone cannot dequantize are listed too, so that an error can call them by their name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockType:
    """How the elements of a GGUF tensor are stored.

    Attributes:
        name: GGUF's name of the type, for example ``"Q4_1"``.
        block_size: elements in one block (1: plain numbers).
        block_bytes: bytes of one block.
        supported: Ozone can read it.
    """

    name: str
    block_size: int
    block_bytes: int
    supported: bool = True


GGUF_TYPES: dict[int, BlockType] = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    9: BlockType("Q8_1", 32, 36, supported=False),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    15: BlockType("Q8_K", 256, 292, supported=False),
    16: BlockType("IQ2_XXS", 256, 66, supported=False),
    17: BlockType("IQ2_XS", 256, 74, supported=False),
    18: BlockType("IQ3_XXS", 256, 98, supported=False),
    19: BlockType("IQ1_S", 256, 50, supported=False),
    20: BlockType("IQ4_NL", 32, 18, supported=False),
    21: BlockType("IQ3_S", 256, 110, supported=False),
    22: BlockType("IQ2_S", 256, 82, supported=False),
    23: BlockType("IQ4_XS", 256, 136, supported=False),
    24: BlockType("I8", 1, 1, supported=False),
    25: BlockType("I16", 1, 2, supported=False),
    26: BlockType("I32", 1, 4, supported=False),
    27: BlockType("I64", 1, 8, supported=False),
    28: BlockType("F64", 1, 8, supported=False),
    29: BlockType("IQ1_M", 256, 56, supported=False),
    30: BlockType("BF16", 1, 2),
    34: BlockType("TQ1_0", 256, 54, supported=False),
    35: BlockType("TQ2_0", 256, 66, supported=False),
    39: BlockType("MXFP4", 32, 17, supported=False),
    40: BlockType("NVFP4", 64, 36, supported=False),
    41: BlockType("Q1_0", 128, 18, supported=False),
}

BLOCK_TYPES: dict[str, BlockType] = {kind.name: kind for kind in GGUF_TYPES.values() if kind.supported}
"""The readable types by name."""
