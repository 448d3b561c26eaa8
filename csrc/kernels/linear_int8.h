// Products of int8 activations with int8 weights, summed exactly, scaled per row and per token.
//
// Weights are kept as unsigned bytes, 128 more than they are, in panels (panel.h) with steps of four columns:
// the form that one dot-product instruction takes. What the 128 adds to a sum is known from the activations
// alone, so that sums simply start at minus that.
#pragma once

#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// out[t][r] = sum_c(x[t][c] * w[r][c]) * weight_scale[r] * x_scale[t] + bias[r] + residual[t][r]
struct LinearInt8 {
    static constexpr std::string_view name = "linear_int8";
    static constexpr uint32_t version = 1;
    static constexpr bool has_weights = true;  // see weights_of
    // "long": tiles of tokens go through four times as many columns before the next one has its turn.
    static constexpr std::string_view ways[] = {"default", "long"};
    static constexpr Field fields[] = {
        {"out", Kind::output},         {"x", Kind::input},    {"x_scale", Kind::input}, {"weight", Kind::input},
        {"weight_scale", Kind::input}, {"bias", Kind::input}, {"residual", Kind::input}, {"tokens", Kind::count},
        {"rows", Kind::integer},       {"cols", Kind::integer}, {"scale_stride", Kind::integer},
        {"dtype", Kind::integer},
    };
    int64_t cost() const { return tokens ? rows * cols + tokens * (cols + rows * element_bytes(dtype)) : 0; }

    void* out;                  // (tokens, rows), dense
    const int8_t* x;            // (tokens, cols), dense
    const float* x_scale;       // scale_stride elements from token to token
    const uint8_t* weight;      // (panels, steps, 48, 4)
    const float* weight_scale;  // (rows)
    const float* bias;          // (rows) or null
    const void* residual;       // (tokens, rows), dense, of type `dtype`, or null
    int64_t tokens, rows, cols;
    int64_t scale_stride;  // 0: one scale for all tokens
    int64_t dtype;
};

// Puts `rows` rows of int8 weights into panels, from row `row` of them on.
struct PackInt8 {
    static constexpr std::string_view name = "pack_int8";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"packed", Kind::output}, {"weight", Kind::input}, {"row", Kind::integer}, {"rows", Kind::integer},
        {"cols", Kind::integer},  {"stride", Kind::integer},
    };
    int64_t cost() const { return 2 * rows * cols; }

    uint8_t* packed;       // (panels, steps, 48, 4)
    const int8_t* weight;  // (rows, cols), `stride` bytes from row to row
    int64_t row, rows, cols, stride;
};

}  // namespace ozone
