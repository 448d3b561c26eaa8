// What products with packed weights share: the panel layout and what happens to a finished sum.
//
// A matrix of `rows` x `cols` is packed in panels of 48 rows. Inside a panel come the columns in steps, as many
// as one dot-product instruction takes (1 for float32 and float16, 2 for bfloat16, 4 for 8-bit integers), and
// inside a step the 48 rows, each with the columns of the step side by side:
//
//     packed[panel][step][row of the panel][column of the step]
//
// So a vector holds the same step of neighbouring rows: sums need no horizontal additions, an activation is
// broadcast, weights are read in one stream, and the same layout serves one token and many. Three vectors of 16
// rows leave registers for eight tokens. The last panel and the last step are padded with zeros. The layout is
// the same for every instruction set.
#pragma once

#include <cstdint>

#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

inline constexpr int64_t kPanelRows = 48;
inline constexpr int kPanelVectors = kPanelRows / kLanes;

// Columns of a step of weights of type T.
template <typename T>
constexpr int step_columns() { return 1; }
template <>
constexpr int step_columns<bf16>() { return 2; }

// Where products go: out[token][row] = sum + bias[row] + residual[token][row], rounded once. With a soft cap, the
// sum s becomes softcap * tanh(s / softcap) before it is rounded.
struct Output {
    void* out;             // (tokens, rows), dense, of type `dtype`
    const float* bias;     // (rows) or null
    const void* residual;  // (tokens, rows), dense, of type `dtype`, or null
    int64_t rows;
    int64_t dtype;
    float softcap = 0.0f;  // 0: none
};

// Stores the sums of one token and the rows [row, row + 48) that exist; `sums` are kPanelVectors vectors.
template <typename T>
OZONE_INLINE void finish_as(const Output& to, int64_t token, int64_t row, const F32* sums) {
    const int64_t at = token * to.rows + row;
    T* out = static_cast<T*>(to.out) + at;
    const T* residual = to.residual ? static_cast<const T*>(to.residual) + at : nullptr;
    for (int v = 0; v < kPanelVectors; ++v) {
        const int64_t first = v * kLanes, left = to.rows - row - first;
        if (left <= 0) return;
        F32 sum = sums[v];
        if (left >= kLanes) {
            if (to.bias) sum += load(to.bias + row + first);
            if (residual) sum += load(residual + first);
            if (to.softcap != 0.0f) sum = tanh(sum / splat(to.softcap)) * splat(to.softcap);
            store(out + first, sum);
        } else {
            if (to.bias) sum += load_some(to.bias + row + first, left);
            if (residual) sum += load_some(residual + first, left);
            if (to.softcap != 0.0f) sum = tanh(sum / splat(to.softcap)) * splat(to.softcap);
            store_some(out + first, sum, left);
        }
    }
}

OZONE_INLINE void finish(const Output& to, int64_t token, int64_t row, const F32* sums) {
    with_type(to.dtype, [&]<typename T>(T) { finish_as<T>(to, token, row, sums); });
}

// Stores the sums, (tokens, 48), of the tokens from `token` on and the rows [row, row + 48) that exist.
inline void finish_tokens(const Output& to, int64_t token, int64_t tokens, int64_t row, const float* sums) {
    for (int64_t t = 0; t < tokens; ++t) {
        F32 finished[kPanelVectors];
        for (int v = 0; v < kPanelVectors; ++v) finished[v] = load(sums + t * kPanelRows + v * kLanes);
        finish(to, token + t, row, finished);
    }
}

}  // namespace ozone::OZONE_ISA
