// How a product of tokens with packed weights is divided: among ranks, and in time so that weights come from
// memory once and from caches after that.
#pragma once

#include <cstdint>

#include "kernels/panel.h"
#include "kernels/share.h"
#include "kernels/simd.h"
#include "runtime/kernel.h"

namespace ozone::OZONE_ISA {

struct Division {
    Share panels, tokens;
};

// Tokens of a rank from which on it takes all panels. What a rank computes of a token then stays in its core's
// caches from one op to the next, which divide tokens too: cores that share no cache need four times as long to read
// what another one wrote (docs/decisions/0019-tokens-stay-with-their-core.md).
constexpr int64_t kManyTokens = 64;

// A rank's part of a product: some panels, some tokens in units of `tile`. A panel costs as much as two tiles of
// tokens beside those it is multiplied with: it has to come from memory, for every rank that uses it.
inline Division divide(int64_t panels, int64_t tokens, int tile, int rank, int size) {
    constexpr int64_t kPanelCost = 2;
    if (tokens >= kManyTokens * size) return {{0, panels}, share_of(tokens, rank, size, tile)};
    const int64_t tiles = (tokens + tile - 1) / tile;
    int64_t best = INT64_MAX;
    int over_panels = size, over_tokens = 1;
    for (int t = 1; t <= size && t <= tiles; ++t) {
        const int p = size / t;
        const int64_t cost = ((panels + p - 1) / p) * ((tiles + t - 1) / t + kPanelCost);
        if (cost >= best) continue;
        best = cost;
        over_panels = p;
        over_tokens = t;
    }
    if (rank >= over_panels * over_tokens) return {{0, 0}, {0, 0}};
    return {share_of(panels, rank / over_tokens, over_panels),
            share_of(tokens, rank % over_tokens, over_tokens, tile)};
}

// Rows of tokens that have no more than one pass over weights, which memory limits.
constexpr int64_t kFewTokens = 8;

// The weights of a rank where few tokens meet `rows` rows of them in panels of `panel_bytes`. Tokens of one tile are
// never divided, however many ranks there are.
inline Stretch panels_of(const void* weight, int64_t rows, int64_t panel_bytes, int64_t tokens, int tile, int rank,
                         int size) {
    if (tokens > kFewTokens || tokens > tile) return {};
    const Share panels = divide((rows + kPanelRows - 1) / kPanelRows, tokens, tile, rank, size).panels;
    return {static_cast<const std::byte*>(weight) + panels.begin * panel_bytes,
            (panels.end - panels.begin) * panel_bytes};
}

// Which cache weights are asked for into, as __builtin_prefetch has it. Of one or two tokens, which are done with a
// step so soon that what matters is to have them near, into the first-level one, and past the others: no pass comes
// back for them, and what does come back (KV cache, activations, what the host needs between two steps) stays there.
// Where arithmetic takes most of the time (`busy`), into the second-level one, where more requests can be under way.
constexpr int into_cache(int tokens, bool busy) { return busy ? 2 : tokens <= 2 ? 0 : 3; }

// Where a pass over weights prefetches: three places a step, `apart` bytes from each other, that advance with it.
struct Prefetch {
    const char* at;
    int64_t apart, advance;

    // `into` is a cache as __builtin_prefetch has it.
    template <int into>
    OZONE_INLINE void step() {
        __builtin_prefetch(at, 0, into);
        __builtin_prefetch(at + apart, 0, into);
        __builtin_prefetch(at + 2 * apart, 0, into);
        at += advance;
    }
};

// The prefetches of a pass of the tokens [first, first + count) of `tokens` over `steps` steps of weights of
// `step_bytes` (at most 192) each. A single pass runs ahead of itself by as much as memory needs to answer. Several
// passes share the work of fetching the weights that come next, so that memory is busy while they compute.
inline Prefetch prefetch_for(const void* weights, int64_t steps, int64_t step_bytes, int64_t first, int64_t count,
                             int64_t tokens) {
    constexpr int64_t kLine = 64, kAhead = 8 << 10;
    const char* at = static_cast<const char*>(weights);
    if (count == tokens) return {at + kAhead, kLine, step_bytes};
    const int64_t advance = step_bytes * count / tokens;
    return {at + steps * step_bytes + steps * (step_bytes * first / tokens), advance > kLine ? kLine : 0, advance};
}

}  // namespace ozone::OZONE_ISA
