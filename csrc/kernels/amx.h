// Configuration of AMX tile registers, which is each thread's own.
#pragma once

#if defined(__AMX_TILE__)

#include <immintrin.h>

#include <cstdint>

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

}  // namespace ozone::OZONE_ISA

#endif
