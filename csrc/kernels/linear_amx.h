// The product of bfloat16 for more tokens than a tile has, in AMX tiles: panels are laid out as tile registers take
// them, and activations are read where they are.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/amx.h"
#include "kernels/linear_float.h"
#include "kernels/panel.h"
#include "kernels/product.h"
#include "kernels/share.h"
#include "kernels/simd.h"
#include "runtime/team.h"

namespace ozone::OZONE_ISA {

// Tiles 0 to 2 are the sums of some tokens with a panel, 3 to 5 those of the next, 6 activations (32 columns of each
// token), 7 weights (16 steps of 16 rows). `tokens` of each, at most 16.
inline void configure_tiles(int tokens) {
    TileConfig config;
    for (int tile = 0; tile < 7; ++tile) config.rows[tile] = static_cast<uint8_t>(tokens);
    load_tile_config(config);
}

// A tile's number is part of an instruction.
#define OZONE_TOKEN_TILES(load, a, b, c, from)        \
    load(a, from, kPanelRows * 4);                    \
    load(b, (from) + kTileRows, kPanelRows * 4);      \
    load(c, (from) + 2 * kTileRows, kPanelRows * 4)

#define OZONE_MULTIPLY_TILES(a, b, c, x, w)           \
    _tile_loadd(6, x, x_bytes);                       \
    _tile_loadd(7, w, kPanelRows * 4);                \
    _tile_dpbf16ps(a, 6, 7);                          \
    _tile_loadd(7, (w) + kTileBytes, kPanelRows * 4); \
    _tile_dpbf16ps(b, 6, 7);                          \
    _tile_loadd(7, (w) + 2 * kTileBytes, kPanelRows * 4); \
    _tile_dpbf16ps(c, 6, 7)

// Adds to `sums`, (tokens, 48), what `steps` steps of a panel, a multiple of 16, contribute. `two`: for twice the
// tokens that the tiles are configured for, which then are 16.
inline void add_tile_steps(float* sums, const char* w, const char* x, int64_t x_bytes, int64_t steps, bool first,
                           bool two) {
    float* next = sums + kTileRows * kPanelRows;
    const char* next_x = x + kTileRows * x_bytes;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    if (!first) {
        OZONE_TOKEN_TILES(_tile_loadd, 0, 1, 2, sums);
        if (two) {
            OZONE_TOKEN_TILES(_tile_loadd, 3, 4, 5, next);
        }
    }
    for (int64_t s = 0; s < steps; s += kTileRows, w += kTileRows * kPanelRows * 4) {
        const int64_t at = s * 4;
        OZONE_MULTIPLY_TILES(0, 1, 2, x + at, w);
        if (two) {
            OZONE_MULTIPLY_TILES(3, 4, 5, next_x + at, w);
        }
    }
    OZONE_TOKEN_TILES(_tile_stored, 0, 1, 2, sums);
    if (two) {
        OZONE_TOKEN_TILES(_tile_stored, 3, 4, 5, next);
    }
}

#undef OZONE_TOKEN_TILES
#undef OZONE_MULTIPLY_TILES

// Whether `product_in_tiles` is for this product. Depends on nothing that differs between ranks or tokens.
inline bool fits_tiles(const LinearFloat& p) {
    return p.dtype == static_cast<int64_t>(DType::bf16) && p.tokens > kTileRows && p.cols % (2 * kTileRows) == 0;
}

inline void product_in_tiles(const LinearFloat& p, int rank, int size) {
    constexpr int64_t kBlock = 128;          // steps: weights that stay in a first-level cache
    constexpr int64_t kChunkBytes = 1 << 20;  // of activations, which stay in a second-level cache
    constexpr int64_t kMostTokens = 512;
    constexpr int64_t kPair = 2 * kTileRows;
    static_assert(kMostTokens * kPanelRows * 4 <= static_cast<int64_t>(kScratchBytes));
    const int64_t steps = p.cols / 2, panels = (p.rows + kPanelRows - 1) / kPanelRows;
    const int64_t x_bytes = p.x_stride * 2, fit = kChunkBytes / (p.cols * 2) / kPair * kPair;
    const int64_t chunk = fit < kPair ? kPair : fit > kMostTokens ? kMostTokens : fit;
    const Output to{p.out, p.bias, p.residual, p.rows, p.out_dtype, static_cast<float>(p.softcap)};
    float* sums = reinterpret_cast<float*>(scratch());
    const Division mine = divide(panels, p.tokens, kPair, rank, size);
    for (int64_t token = mine.tokens.begin; token < mine.tokens.end; token += chunk) {
        const int64_t tokens = mine.tokens.end - token < chunk ? mine.tokens.end - token : chunk;
        const int64_t full = tokens / kTileRows * kTileRows;
        const char* x = static_cast<const char*>(p.x) + token * x_bytes;
        for (int64_t panel = mine.panels.begin; panel < mine.panels.end; ++panel) {
            const char* weights = static_cast<const char*>(p.weight) + panel * steps * kPanelRows * 4;
            for (int64_t s = 0; s < steps; s += kBlock) {
                const int64_t count = steps - s < kBlock ? steps - s : kBlock;
                const char* w = weights + s * kPanelRows * 4;
                if (full) configure_tiles(kTileRows);
                for (int64_t t = 0; t < full; t += kPair)
                    add_tile_steps(sums + t * kPanelRows, w, x + t * x_bytes + s * 4, x_bytes, count, s == 0,
                                   t + kPair <= full);
                if (full == tokens) continue;
                configure_tiles(static_cast<int>(tokens - full));
                add_tile_steps(sums + full * kPanelRows, w, x + full * x_bytes + s * 4, x_bytes, count, s == 0, false);
            }
            finish_tokens(to, token, tokens, panel * kPanelRows, sums);
        }
    }
    _tile_release();
}

}  // namespace ozone::OZONE_ISA
