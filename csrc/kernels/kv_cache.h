// How keys and values lie in the paged KV cache.
//
// A cache holds, for each block and KV head, tiles of 16 positions, dense from the first to the last. Blocks are
// `block_stride` elements apart and heads `head_stride`. A dot-product instruction takes `pack` neighbours at
// once (2 of bfloat16, 4 of 8-bit types, 1 of others):
//
//     keys:    [block][kv head][tile][column / pack][16 positions][column % pack]
//     values:  [block][kv head][tile][position / pack][columns][position % pack]
//
// So with keys, vectors hold neighbouring positions and the query is broadcast; with values, they hold
// neighbouring columns and the probability is broadcast; neither needs sums across a vector. Columns are padded
// to a multiple of 16 with zeros. The layout is the same for every instruction set.
//
// int8 has a scale for each position and KV head, [block][kv head][tile][keys, values][16 positions] float32,
// dense; e4m3 has two for the whole cache, of keys and of values. Numbers are stored divided by them.
#pragma once

#include <cstdint>

#include "kernels/types.h"

namespace ozone {

// Codes of cache types, in integer fields named `cache_dtype`; those of activation types are the same.
enum class CacheType : int64_t { f32 = 0, bf16 = 1, f16 = 2, int8 = 3, e4m3 = 4 };

constexpr int64_t kTilePositions = 16;

constexpr int64_t cache_element_bytes(int64_t type) {
    if (type == static_cast<int64_t>(CacheType::f32)) return 4;
    return type >= static_cast<int64_t>(CacheType::int8) ? 1 : 2;
}

}  // namespace ozone
