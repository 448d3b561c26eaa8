"""Blocks are held as often as they were taken, found by what they contain, and evicted oldest first."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ozone.engine.block_pool import ROOT_HASH, BlockPool, hash_block

SIZE = 6
HASHES = [bytes([value]) for value in range(4)]


class PoolAgainstModel(RuleBasedStateMachine):
    """The model: a list of holders, and what each block was last registered as."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(SIZE, 4, enable_prefix_caching=True)
        self.holders: list[list[int]] = []
        self.content: dict[int, bytes] = {}

    def references(self, block: int) -> int:
        return sum(holder.count(block) for holder in self.holders)

    @rule(count=st.integers(0, SIZE))
    def allocate(self, count):
        free = self.pool.num_free
        if count > free:
            with pytest.raises(ValueError, match="free"):
                self.pool.allocate(count)
            return
        blocks = self.pool.allocate(count)
        assert len(set(blocks)) == count
        assert all(self.references(block) == 0 for block in blocks)
        for block in blocks:
            self.content.pop(block, None)
        self.holders.append(blocks)

    @rule(hashes=st.permutations(HASHES))
    def share_what_is_found(self, hashes):
        found = self.pool.find(hashes)
        by_hash = {block_hash: block for block, block_hash in self.content.items()}
        expected = []
        for block_hash in hashes:
            if block_hash not in by_hash:
                break
            expected.append(by_hash[block_hash])
        assert found == expected
        assert self.pool.num_idle(found) == sum(self.references(block) == 0 for block in found)
        self.pool.share(found)
        self.holders.append(found)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data):
        self.pool.release(self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1))))

    @precondition(lambda self: any(self.holders))
    @rule(data=st.data(), block_hash=st.sampled_from(HASHES))
    def register(self, data, block_hash):
        block = data.draw(st.sampled_from(sorted({b for holder in self.holders for b in holder})))
        if block in self.content:
            return
        self.pool.register(block, block_hash)
        if block_hash not in self.content.values():
            self.content[block] = block_hash

    @rule(blocks=st.sets(st.integers(0, SIZE - 1)))
    def forget(self, blocks):
        self.pool.forget(sorted(blocks))
        for block in blocks:
            self.content.pop(block, None)

    @rule()
    def forget_all(self):
        self.pool.forget_all()
        self.content.clear()

    @invariant()
    def free_blocks_are_those_without_holders(self):
        assert self.pool.num_free == sum(self.references(block) == 0 for block in range(SIZE))


TestPoolAgainstModel = PoolAgainstModel.TestCase
TestPoolAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_blocks_without_content_go_first_and_then_the_least_recently_used():
    pool = BlockPool(4, 4, enable_prefix_caching=True)
    first, second = pool.allocate(2), pool.allocate(1)
    for block, block_hash in zip(first + second, HASHES, strict=False):
        pool.register(block, block_hash)
    pool.release(second)
    pool.release(first)
    # Block 3 never held anything; of a sequence, the end goes before the beginning.
    assert pool.allocate(4) == [3, *second, *reversed(first)]


def test_without_prefix_caching_nothing_is_found():
    pool = BlockPool(2, 4, enable_prefix_caching=False)
    pool.register(pool.allocate(1)[0], HASHES[0])
    assert pool.find(HASHES) == []


def test_a_blocks_hash_depends_on_every_token_up_to_its_end():
    first = hash_block(ROOT_HASH, [1, 2])
    assert first == hash_block(ROOT_HASH, [1, 2])
    others = [hash_block(ROOT_HASH, [2, 1]), hash_block(ROOT_HASH, [1, 3]), hash_block(first, [1, 2])]
    assert len({first, *others, hash_block(others[0], [1, 2])}) == 5
