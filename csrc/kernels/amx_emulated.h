// The tile instructions that kernels use, in software: for tests of the AMX kernels on CPUs without AMX (CMake option
// OZONE_EMULATE_AMX, never in a release). Semantics as in the Intel Architecture Instruction Set Extensions Programming
// Reference; where a CPU would raise an exception, the process ends with a line on stderr.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace ozone::OZONE_ISA {

struct EmulatedTiles {
    static constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;
    bool configured = false;
    int rows[kTiles], bytes[kTiles];  // of a row
    alignas(64) unsigned char data[kTiles][kRows][kRowBytes];

    static void require(bool met, const char* what) {
        if (met) return;
        std::fprintf(stderr, "emulated AMX: %s\n", what);
        std::abort();
    }

    void configure(const void* from) {
        unsigned char config[64];
        std::memcpy(config, from, sizeof config);
        require(config[0] == 1, "the palette is not 1");
        for (int i = 1; i < 16; ++i) require(config[i] == 0, "reserved bytes of a configuration are not zero");
        for (int tile = 0; tile < 16; ++tile) {
            const int tile_bytes = config[16 + 2 * tile] | config[17 + 2 * tile] << 8, tile_rows = config[48 + tile];
            require(tile < kTiles || (tile_bytes == 0 && tile_rows == 0), "there are only 8 tiles");
            require(tile_bytes <= kRowBytes && tile_rows <= kRows, "a tile is too large");
            require((tile_bytes == 0) == (tile_rows == 0), "a tile has rows or columns alone");
            if (tile < kTiles) rows[tile] = tile_rows, bytes[tile] = tile_bytes;
        }
        std::memset(data, 0, sizeof data);
        configured = true;
    }

    void use(int tile) const { require(configured && rows[tile] > 0, "a tile is used that is not configured"); }

    void zero(int tile) {
        use(tile);
        std::memset(data[tile], 0, sizeof data[tile]);
    }

    void load(int tile, const void* from, int64_t stride) {
        zero(tile);
        for (int r = 0; r < rows[tile]; ++r)
            std::memcpy(data[tile][r], static_cast<const char*>(from) + r * stride, static_cast<size_t>(bytes[tile]));
    }

    void store(int tile, void* to, int64_t stride) const {
        use(tile);
        for (int r = 0; r < rows[tile]; ++r)
            std::memcpy(static_cast<char*>(to) + r * stride, data[tile][r], static_cast<size_t>(bytes[tile]));
    }

    // sums (m, n) += a (m, k) times b (k, n), in elements of 4 bytes.
    void check_product(int sums, int a, int b) const {
        use(sums), use(a), use(b);
        require(sums != a && sums != b && a != b, "a product names a tile twice");
        require(rows[sums] == rows[a], "sums and the first factor differ in rows");
        require(bytes[sums] == bytes[b], "sums and the second factor differ in columns");
        require(bytes[a] == 4 * rows[b], "the factors do not fit");
        require(bytes[a] % 4 == 0 && bytes[b] % 4 == 0, "a row is no multiple of 4 bytes");
    }

    // Pairs of bfloat16 in each element: even and odd ones are summed apart, and then together with what was there.
    void dpbf16ps(int sums, int a, int b) {
        check_product(sums, a, b);
        const auto high = [](const unsigned char* at) {  // a bfloat16, as a float32
            const uint32_t bits = (static_cast<uint32_t>(at[1]) << 8 | at[0]) << 16;
            float value;
            std::memcpy(&value, &bits, 4);
            return value;
        };
        for (int m = 0; m < rows[sums]; ++m)
            for (int n = 0; n < bytes[sums] / 4; ++n) {
                float even = 0, odd = 0, sum;
                for (int k = 0; k < rows[b]; ++k) {
                    even = __builtin_fmaf(high(data[a][m] + 4 * k), high(data[b][k] + 4 * n), even);
                    odd = __builtin_fmaf(high(data[a][m] + 4 * k + 2), high(data[b][k] + 4 * n + 2), odd);
                }
                std::memcpy(&sum, data[sums][m] + 4 * n, 4);
                sum += even + odd;
                std::memcpy(data[sums][m] + 4 * n, &sum, 4);
            }
    }

    // Four bytes in each element, of types A and B; sums wrap modulo 2^32.
    template <typename A, typename B>
    void dpb(int sums, int a, int b) {
        check_product(sums, a, b);
        for (int m = 0; m < rows[sums]; ++m)
            for (int n = 0; n < bytes[sums] / 4; ++n) {
                uint32_t sum;
                std::memcpy(&sum, data[sums][m] + 4 * n, 4);
                for (int k = 0; k < rows[b]; ++k)
                    for (int i = 0; i < 4; ++i)
                        sum += static_cast<uint32_t>(static_cast<A>(data[a][m][4 * k + i]) *
                                                     static_cast<B>(data[b][k][4 * n + i]));
                std::memcpy(data[sums][m] + 4 * n, &sum, 4);
            }
    }
};

inline thread_local EmulatedTiles emulated_tiles;

}  // namespace ozone::OZONE_ISA

// The compiler's own are macros in part. A tile's number is a constant in them, and is one here.
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_dpbsud
#undef _tile_dpbusd
#define _tile_loadconfig(config) ozone::OZONE_ISA::emulated_tiles.configure(config)
#define _tile_release() (ozone::OZONE_ISA::emulated_tiles.configured = false)
#define _tile_zero(tile) ozone::OZONE_ISA::emulated_tiles.zero(tile)
#define _tile_loadd(tile, from, stride) ozone::OZONE_ISA::emulated_tiles.load(tile, from, stride)
#define _tile_stored(tile, to, stride) ozone::OZONE_ISA::emulated_tiles.store(tile, to, stride)
#define _tile_dpbf16ps(sums, a, b) ozone::OZONE_ISA::emulated_tiles.dpbf16ps(sums, a, b)
#define _tile_dpbsud(sums, a, b) ozone::OZONE_ISA::emulated_tiles.dpb<int8_t, uint8_t>(sums, a, b)
#define _tile_dpbusd(sums, a, b) ozone::OZONE_ISA::emulated_tiles.dpb<uint8_t, int8_t>(sums, a, b)
