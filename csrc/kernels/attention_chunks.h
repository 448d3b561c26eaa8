// How a decode's context is cut into chunks, and how what they gave becomes one result.
#pragma once

#include "kernels/attention.h"
#include "kernels/kv_tile.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

struct Chunks {
    int64_t begin, length, count;  // the c-th chunk is [begin + c length, begin + (c + 1) length), as far as it goes
};

// What the last of `seen_to` positions sees, cut into chunks of whole tiles.
inline Chunks chunks_of(int64_t seen_to, int64_t window) {
    const int64_t first = window && window < seen_to ? seen_to - window : 0;
    const int64_t begin = first / kTilePositions * kTilePositions, span = seen_to - begin;
    if (span <= 0) return {0, 0, 0};
    int64_t count = (span + kChunkPositions - 1) / kChunkPositions;
    if (count > kMaxChunks) count = kMaxChunks;
    const int64_t tiles = (span + kTilePositions - 1) / kTilePositions;
    const int64_t length = (tiles + count - 1) / count * kTilePositions;
    return {begin, length, (span + length - 1) / length};
}

// Of request i: how many chunks `attention` left to join; 1 or less where it wrote the result itself.
template <typename Params>
OZONE_INLINE int64_t chunks_to_join(const Params& p, int64_t i) {
    const bool decodes = p.query_start_loc[i + 1] - p.query_start_loc[i] == 1;
    return decodes ? chunks_of(p.seq_lens[i], p.window).count : 0;
}

// Floats of the partial result of a chunk.
OZONE_INLINE int64_t partial_width(int64_t head_dim) { return kPartialHeader + padded(head_dim); }

// The result of a head from `count` partial ones.
template <typename T>
OZONE_INLINE void join_chunks(T* out, const float* partials, int64_t count, int64_t head_dim) {
    const int64_t width = partial_width(head_dim);
    float weights[kMaxChunks];
    for (int64_t c = 0; c < kMaxChunks; ++c) weights[c] = c < count ? partials[c * width] : -__builtin_inff();
    F32 most = splat(-__builtin_inff());
    for (int64_t c = 0; c < kMaxChunks; c += kLanes) most = max(load(weights + c), most);
    const float top = largest(most);
    for (int64_t c = 0; c < kMaxChunks; c += kLanes) store(weights + c, exp2(load(weights + c) - top));
    float sum = 0;
    for (int64_t c = 0; c < count; ++c) sum += weights[c] * partials[c * width + 1];
    for (int64_t column = 0; column < head_dim; column += kLanes) {
        F32 total = splat(0);
        for (int64_t c = 0; c < count; ++c)
            total = fma(load(partials + c * width + kPartialHeader + column), splat(weights[c]), total);
        total = total * (1.0f / sum);
        const int64_t left = head_dim - column;
        if (left >= kLanes) {
            store(out + column, total);
        } else {
            store_some(out + column, total, left);
        }
    }
}

}  // namespace ozone::OZONE_ISA
