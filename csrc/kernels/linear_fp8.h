// Products of e4m3 activations with e4m3 weights: exact products, summed in float32, scaled per row and per token or
// in groups of 128 columns.
//
// A panel (panel.h) has steps of four columns, 192 bytes:
//
//     packed[panel][step][vector of 16 rows][lane of 4 rows][pair of columns][row of the lane][column of the pair]
//
// so that, where a lookup gives the low and the high bytes of the numbers as bfloat16, interleaving the two in lanes
// of 16 bytes gives the two pairs of columns of 16 rows in order.
#pragma once

#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// out[t][r] = sum_g(sum_c(x[t][c] * w[r][c]) * weight_scale[r][g] * x_scale[t][g]) + bias[r] + residual[t][r]
struct LinearFp8 {
    static constexpr std::string_view name = "linear_fp8";
    static constexpr uint32_t version = 1;
    static constexpr bool has_weights = true;  // see weights_of
    // "stream": up to 128 tokens decode weights for themselves; "near": that is asked for ahead by less.
    static constexpr std::string_view ways[] = {"default", "stream", "near"};
    static constexpr Field fields[] = {
        {"out", Kind::output},         {"x", Kind::input},      {"x_scale", Kind::input},  {"weight", Kind::input},
        {"weight_scale", Kind::input}, {"bias", Kind::input},   {"residual", Kind::input}, {"tokens", Kind::count},
        {"rows", Kind::integer},       {"cols", Kind::integer}, {"x_scale_stride", Kind::integer},
        {"x_groups", Kind::integer},   {"weight_groups", Kind::integer}, {"dtype", Kind::integer},
    };
    static constexpr int64_t kGroup = 128;
    int64_t cost() const { return tokens ? rows * cols + tokens * (cols + rows * element_bytes(dtype)) : 0; }

    void* out;                  // (tokens, rows), dense
    const e4m3* x;              // (tokens, cols), dense, at most 65,536 columns
    const float* x_scale;       // x_scale_stride elements from token to token
    const uint8_t* weight;      // (panels, steps, 192)
    const float* weight_scale;  // (rows), or (panels, groups, 48) where weight_groups
    const float* bias;          // (rows) or null
    const void* residual;       // (tokens, rows), dense, of type `dtype`, or null
    int64_t tokens, rows, cols;
    int64_t x_scale_stride;           // 0: one scale for all tokens
    int64_t x_groups, weight_groups;  // whether scales differ from group to group
    int64_t dtype;
};

// Puts `rows` rows of e4m3 weights into panels, from row `row` of them on.
struct PackFp8 {
    static constexpr std::string_view name = "pack_fp8";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"packed", Kind::output}, {"weight", Kind::input}, {"row", Kind::integer}, {"rows", Kind::integer},
        {"cols", Kind::integer},  {"stride", Kind::integer},
    };
    int64_t cost() const { return 2 * rows * cols; }

    uint8_t* packed;        // (panels, steps, 192)
    const uint8_t* weight;  // (rows, cols), `stride` bytes from row to row
    int64_t row, rows, cols, stride;
};

}  // namespace ozone
