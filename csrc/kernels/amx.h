// AMX tile registers: their configuration, which is each thread's own, and products of tokens with a panel in them.
// Panels (panel.h) are laid out as tile registers take them, and activations are read where they are.
#pragma once

#if defined(__AMX_TILE__)

#include <immintrin.h>

#include <cstdint>

#include "kernels/panel.h"
#if defined(OZONE_EMULATE_AMX)
#include "kernels/amx_emulated.h"
#endif

namespace ozone::OZONE_ISA {

inline constexpr int kTileRows = 16;   // at most
inline constexpr int kTileBytes = 64;  // of a row, at most

// Palette 1 of the Intel Architecture Instruction Set Extensions Programming Reference.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {kTileBytes, kTileBytes, kTileBytes, kTileBytes, kTileBytes, kTileBytes, kTileBytes, kTileBytes};
    uint8_t rows[16] = {kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kTileRows};
};

// What the tiles held is lost.
inline void load_tile_config(const TileConfig& config) {
    // g++ 12's intrinsic tells the compiler that it reads 8 bytes: the others would not be stored.
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
}

// Tiles 0 to 2 are the sums of some tokens with a panel, 3 to 5 those of the next, 6 activations (16 steps of each
// token), 7 weights (16 steps of 16 rows). `tokens` of each, at most 16.
inline void configure_tiles(int tokens) {
    TileConfig config;
    for (int tile = 0; tile < 7; ++tile) config.rows[tile] = static_cast<uint8_t>(tokens);
    load_tile_config(config);
}

enum class TileProduct {
    bf16,  // steps of two columns, float32 sums
    int8,  // steps of four columns: int8 activations, uint8 weights, int32 sums
};

// A tile's number is part of an instruction.
#define OZONE_TOKEN_TILES(load, a, b, c, from)            \
    load(a, from, kPanelRows * 4);                        \
    load(b, (from) + kTileBytes, kPanelRows * 4);         \
    load(c, (from) + 2 * kTileBytes, kPanelRows * 4)

#define OZONE_MULTIPLY_TILE(sums)                                                     \
    if constexpr (product == TileProduct::bf16) {                                     \
        _tile_dpbf16ps(sums, 6, 7);                                                   \
    } else {                                                                          \
        _tile_dpbsud(sums, 6, 7);                                                     \
    }

#define OZONE_MULTIPLY_TILES(a, b, c, x, w)               \
    _tile_loadd(6, x, x_bytes);                           \
    _tile_loadd(7, w, kPanelRows * 4);                    \
    OZONE_MULTIPLY_TILE(a)                                \
    _tile_loadd(7, (w) + kTileBytes, kPanelRows * 4);     \
    OZONE_MULTIPLY_TILE(b)                                \
    _tile_loadd(7, (w) + 2 * kTileBytes, kPanelRows * 4); \
    OZONE_MULTIPLY_TILE(c)

// As `add_in_tiles`, for the tokens that the tiles are configured for, or `two`: for twice 16.
template <TileProduct product>
inline void add_tile_steps(char* sums, const char* w, const char* x, int64_t x_bytes, int64_t steps, bool first,
                           bool two) {
    char* next = sums + kTileRows * kPanelRows * 4;
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
#undef OZONE_MULTIPLY_TILE
#undef OZONE_MULTIPLY_TILES

// Adds to `sums`, (tokens, 48) of 4 bytes, or `first`: to zeros, what `steps` steps of a panel, a multiple of 16,
// contribute. `x` are the tokens' activations from the first of these steps on, `x_bytes` from token to token.
// Whoever is done with products calls `_tile_release`.
template <TileProduct product>
inline void add_in_tiles(void* sums, const void* w, const void* x, int64_t x_bytes, int64_t tokens, int64_t steps,
                         bool first) {
    constexpr int64_t kPair = 2 * kTileRows, kBlock = 128;  // steps: weights that stay in a first-level cache
    const int64_t full = tokens / kTileRows * kTileRows;
    // g++'s intrinsics do not say that they read memory: `sums` would not have to be stored.
    __asm__ volatile("" : : "r"(sums), "r"(x) : "memory");
    for (int64_t s = 0; s < steps; s += kBlock) {
        const int64_t count = steps - s < kBlock ? steps - s : kBlock;
        const char* weights = static_cast<const char*>(w) + s * kPanelRows * 4;
        const char* from = static_cast<const char*>(x) + s * 4;
        const bool zero = first && s == 0;
        const auto sums_of = [&](int64_t token) { return static_cast<char*>(sums) + token * kPanelRows * 4; };
        if (full) configure_tiles(kTileRows);
        for (int64_t t = 0; t < full; t += kPair)
            add_tile_steps<product>(sums_of(t), weights, from + t * x_bytes, x_bytes, count, zero, t + kPair <= full);
        if (full == tokens) continue;
        configure_tiles(static_cast<int>(tokens - full));
        add_tile_steps<product>(sums_of(full), weights, from + full * x_bytes, x_bytes, count, zero, false);
    }
}

}  // namespace ozone::OZONE_ISA

#endif
