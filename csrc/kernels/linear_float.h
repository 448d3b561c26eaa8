// Products with weights in a floating type and activations of the same type, summed in float32.
#pragma once

#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// out[t][r] = sum_c(x[t][c] * w[r][c]) + bias[r] + residual[t][r], soft-capped where asked, rounded once.
// The order of summation does not depend on anything but `cols`: equal rows of any batch get equal results. With AMX
// that holds for batches of up to 16 tokens and for larger ones, each among themselves.
struct LinearFloat {
    static constexpr std::string_view name = "linear_float";
    static constexpr uint32_t version = 1;
    static constexpr bool has_weights = true;  // see weights_of
    // "far": a few tokens have weights fetched into the second-level cache too, not the first.
    static constexpr std::string_view ways[] = {"default", "far"};
    static constexpr Field fields[] = {
        {"out", Kind::output},     {"x", Kind::input},         {"weight", Kind::input},
        {"bias", Kind::input},     {"residual", Kind::input},  {"tokens", Kind::count},
        {"rows", Kind::integer},   {"cols", Kind::integer},    {"x_stride", Kind::integer},
        {"dtype", Kind::integer},  {"out_dtype", Kind::integer}, {"softcap", Kind::real},
    };
    int64_t cost() const {
        return tokens ? (rows * cols + tokens * cols) * element_bytes(dtype) +
                            tokens * rows * element_bytes(out_dtype)
                      : 0;
    }

    void* out;             // (tokens, rows), dense, of type `out_dtype`
    const void* x;         // (tokens, cols), x_stride elements from token to token
    const void* weight;    // (panels, steps, 48, columns of a step), of type `dtype` as `x`
    const float* bias;     // (rows) or null
    const void* residual;  // (tokens, rows), dense, of type `out_dtype`, or null
    int64_t tokens, rows, cols, x_stride;
    int64_t dtype, out_dtype;
    double softcap;  // 0: none
};

}  // namespace ozone
