// The product of bfloat16 for more tokens than a tile has, in AMX tiles.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/amx.h"
#include "kernels/linear_float.h"
#include "kernels/panel.h"
#include "kernels/product.h"
#include "kernels/share.h"
#include "runtime/team.h"

namespace ozone::OZONE_ISA {

// Whether `product_in_tiles` is for this product. Depends on nothing that differs between ranks or tokens.
inline bool fits_tiles(const LinearFloat& p) {
    return p.dtype == static_cast<int64_t>(DType::bf16) && p.tokens > kTileRows && p.cols % (2 * kTileRows) == 0;
}

inline void product_in_tiles(const LinearFloat& p, int rank, int size) {
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
        const char* x = static_cast<const char*>(p.x) + token * x_bytes;
        for (int64_t panel = mine.panels.begin; panel < mine.panels.end; ++panel) {
            const char* weights = static_cast<const char*>(p.weight) + panel * steps * kPanelRows * 4;
            add_in_tiles<TileProduct::bf16>(sums, weights, x, x_bytes, tokens, steps, true);
            finish_tokens(to, token, tokens, panel * kPanelRows, sums);
        }
    }
    _tile_release();
}

}  // namespace ozone::OZONE_ISA
