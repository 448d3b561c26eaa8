"""Blocks of the KV cache: who holds them, and which ones can be found again by what they contain.

A block whose last holder lets go keeps its content, and its hash, until it is needed for something else.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

ROOT_HASH = b""


def root_hash(cache_salt: str | None) -> bytes:
    """Where a chain of block hashes begins: no two salts, and no salt, ever share a block."""
    if cache_salt is None:
        return ROOT_HASH
    return blake2b(cache_salt.encode("utf-8", "surrogatepass"), digest_size=32, person=b"cache_salt").digest()


def hash_block(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """The identity of a full block: its tokens and, through `parent`, everything before them.

    Cryptographic, because whoever could make two prompts collide would read another's cache.
    """
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=32).digest()


class BlockPool:
    """Reference-counted blocks 0 to num_blocks - 1. Every operation costs O(1) per block.

    Free blocks are handed out without content first, then by least recent use.
    """

    def __init__(self, num_blocks: int, block_size: int, *, enable_prefix_caching: bool) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self._references = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_with: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds; what they contain may still be found by hash."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks and forget what they contained. The caller has looked at `num_free`."""
        if count > len(self._free):
            raise ValueError(f"{count} blocks wanted, {len(self._free)} are free")
        blocks = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            self._references[block] = 1
            blocks.append(block)
        return blocks

    def share(self, blocks: Sequence[int]) -> None:
        """Become one more holder of `blocks`, free or not."""
        for block in blocks:
            if self._references[block] == 0:
                del self._free[block]
            self._references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of one request's blocks. The end of a sequence is reused before its beginning."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                if self._hash_of[block] is None:
                    self._free.move_to_end(block, last=False)

    def register(self, block: int, block_hash: bytes) -> None:
        """Let a computed, full block be found. The first of two equal blocks is the one that is."""
        if self.enable_prefix_caching and block_hash not in self._block_with:
            self._block_with[block_hash] = block
            self._hash_of[block] = block_hash

    def find(self, block_hashes: Sequence[bytes]) -> list[int]:
        """The longest run of blocks, from the first on, that are here under these hashes."""
        found = []
        for block_hash in block_hashes:
            block = self._block_with.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def num_idle(self, blocks: Sequence[int]) -> int:
        """How many of `blocks` nobody holds."""
        return sum(self._references[block] == 0 for block in blocks)

    def forget(self, blocks: Sequence[int]) -> None:
        """Let `blocks` never be found again, because what they hold is in doubt."""
        for block in blocks:
            self._forget(block)

    def forget_all(self) -> None:
        self._block_with.clear()
        self._hash_of = [None] * self.num_blocks

    def _forget(self, block: int) -> None:
        block_hash = self._hash_of[block]
        if block_hash is not None:
            del self._block_with[block_hash]
            self._hash_of[block] = None
