// Root mean square normalization (Zhang and Sennrich, 2019), in float32 whatever the activations' type.
#pragma once

#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// out[i] = x[i] / sqrt(mean(x[i]^2) + eps) * weight
struct RmsNorm {
    static constexpr std::string_view name = "rms_norm";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"out", Kind::output},   {"x", Kind::input},       {"weight", Kind::input},     {"tokens", Kind::count},
        {"heads", Kind::integer}, {"cols", Kind::integer}, {"x_stride", Kind::integer}, {"head_stride", Kind::integer},
        {"eps", Kind::real},     {"dtype", Kind::integer},
    };
    int64_t cost() const { return 2 * tokens * heads * cols * element_bytes(dtype); }

    void* out;            // (tokens, heads, cols), dense
    const void* x;        // the same, x_stride elements from token to token, head_stride from head to head
    const float* weight;  // (cols)
    int64_t tokens, heads, cols, x_stride, head_stride;
    double eps;
    int64_t dtype;
};

// sum = x + residual, rounded to the activations' type; out = rms_norm(sum)
struct FusedAddRmsNorm {
    static constexpr std::string_view name = "fused_add_rms_norm";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"out", Kind::output},   {"sum", Kind::output},   {"x", Kind::input},       {"residual", Kind::input},
        {"weight", Kind::input}, {"rows", Kind::count},   {"cols", Kind::integer},  {"eps", Kind::real},
        {"dtype", Kind::integer},
    };
    int64_t cost() const { return 4 * rows * cols * element_bytes(dtype); }

    void* out;             // (rows, cols); all tensors are dense
    void* sum;             // (rows, cols), may be `residual`
    const void* x;         // (rows, cols)
    const void* residual;  // (rows, cols)
    const float* weight;   // (cols)
    int64_t rows, cols;
    double eps;
    int64_t dtype;
};

}  // namespace ozone
