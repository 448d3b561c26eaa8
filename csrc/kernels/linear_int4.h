// Products of floating-point activations with 4-bit integers that are scaled in groups of columns. Products with the
// integers are exact where activations are bfloat16; sums are float32; scale and zero point come in once a group.
//
// A panel (panel.h) has steps of eight columns, 192 bytes:
//
//     packed[panel][step][row of the panel][parity of the column]
//
// in words of 16 bits: columns 0, 2, 4, 6 from the lowest bits up, and columns 1, 3, 5, 7. So each shift of a vector
// by four bits shows a pair of columns of 16 rows.
#pragma once

#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// out[t][r] = sum_g(scales[r][g] * sum_c(x[t][c] * (w[r][c] - zeros[r][g]))) + bias[r] + residual[t][r]
struct LinearInt4 {
    static constexpr std::string_view name = "linear_int4";
    static constexpr uint32_t version = 1;
    static constexpr bool has_weights = true;  // see weights_of
    // "stream": up to 128 tokens decode weights for themselves; "near": that is asked for ahead by less.
    static constexpr std::string_view ways[] = {"default", "stream", "near"};
    static constexpr Field fields[] = {
        {"out", Kind::output},  {"x", Kind::input},        {"weight", Kind::input}, {"scales", Kind::input},
        {"zeros", Kind::input}, {"bias", Kind::input},     {"residual", Kind::input}, {"tokens", Kind::count},
        {"rows", Kind::integer}, {"cols", Kind::integer},  {"x_stride", Kind::integer},
        {"group_cols", Kind::integer}, {"scale_dtype", Kind::integer}, {"dtype", Kind::integer},
    };
    int64_t cost() const {
        return tokens ? rows * cols / 2 + tokens * (rows + cols) * element_bytes(dtype) : 0;
    }

    void* out;              // (tokens, rows), dense, of type `dtype`
    const void* x;          // (tokens, cols), at most 65,536 columns, x_stride elements from token to token
    const uint8_t* weight;  // (panels, steps, 192)
    const void* scales;     // (panels, groups, 48), of type `scale_dtype`
    const uint8_t* zeros;   // (panels, groups, 48), or null: 8
    const float* bias;      // (rows) or null
    const void* residual;   // (tokens, rows), dense, of type `dtype`, or null
    int64_t tokens, rows, cols, x_stride;
    int64_t group_cols;  // a multiple of 8 up to 2048, or at least `cols`; the last group may be short
    int64_t scale_dtype, dtype;
};

// Puts `rows` rows of 4-bit integers, a byte for each, into panels, from row `row` of them on.
struct PackInt4 {
    static constexpr std::string_view name = "pack_int4";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"packed", Kind::output}, {"weight", Kind::input}, {"row", Kind::integer}, {"rows", Kind::integer},
        {"cols", Kind::integer},  {"stride", Kind::integer},
    };
    int64_t cost() const { return 2 * rows * cols; }

    uint8_t* packed;        // (panels, steps, 192)
    const uint8_t* weight;  // (rows, cols), 0 to 15, `stride` bytes from row to row
    int64_t row, rows, cols, stride;
};

}  // namespace ozone
