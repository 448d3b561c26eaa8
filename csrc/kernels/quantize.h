// Quantization of activations, alone or right behind what makes them: a norm or a gated activation. A fused
// kernel makes one row at a time in scratch memory, rounded to the activations' type, and quantizes that row as
// `Quantize` would, so its results are those of its parts bit for bit.
#pragma once

#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// What becomes of a row x of activations. Python has the same table (ozone/ops/quantize.py). Scales are
// float32; a dynamic one is at least 2^-126, so that zeros have one too. fp8 is e4m3: the quotient is rounded to
// nearest, ties to even, beyond 448 it becomes 448, NaN stays NaN. int8 is rounded likewise, within [-128, 127].
enum class Target : int64_t {
    plain = 0,        // x
    fp8_static = 1,   // x / s, s given
    fp8_token = 2,    // x / s, s = max |x| / 448
    fp8_group = 3,    // the same for each `group` columns
    int8_static = 4,  // x / s, s given
    int8_token = 5,   // x / s, s = max |x| / 127
    int8_group = 6,   // the same for each `group` columns, and the sum of each 16 results
};

// Where quantized rows go. Targets that have no use for a pointer have null there.
struct Quantized {
    void* out;                  // (rows, out_cols), dense
    float* scale;               // token: (rows); group: (rows, out_cols / group)
    int16_t* sums;              // int8_group: (rows, out_cols / 16)
    const float* static_scale;  // static: (1)
    int64_t target, group;
    int64_t out_cols;           // columns behind those of the source are zeros
};

#define OZONE_QUANTIZED_FIELDS                                                                        \
    {"out", Kind::output}, {"scale", Kind::output}, {"sums", Kind::output},                           \
        {"static_scale", Kind::input}, {"target", Kind::integer}, {"group", Kind::integer},           \
        {"out_cols", Kind::integer}

struct Quantize {
    static constexpr std::string_view name = "quantize";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        OZONE_QUANTIZED_FIELDS, {"x", Kind::input},          {"rows", Kind::count},
        {"cols", Kind::integer}, {"x_stride", Kind::integer}, {"dtype", Kind::integer},
    };
    int64_t cost() const { return rows * cols * (element_bytes(dtype) + 1); }

    Quantized to;
    const void* x;  // (rows, cols), x_stride elements from row to row
    int64_t rows, cols, x_stride, dtype;
};

struct RmsNormQuantize {
    static constexpr std::string_view name = "rms_norm_quantize";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        OZONE_QUANTIZED_FIELDS,      {"x", Kind::input},          {"weight", Kind::input},
        {"rows", Kind::count},       {"cols", Kind::integer},     {"x_stride", Kind::integer},
        {"eps", Kind::real},         {"dtype", Kind::integer},
    };
    int64_t cost() const { return rows * cols * (element_bytes(dtype) + 1); }

    Quantized to;
    const void* x;        // (rows, cols), x_stride elements from row to row
    const float* weight;  // (cols)
    int64_t rows, cols, x_stride;
    double eps;
    int64_t dtype;
};

struct FusedAddRmsNormQuantize {
    static constexpr std::string_view name = "fused_add_rms_norm_quantize";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        OZONE_QUANTIZED_FIELDS, {"sum", Kind::output},   {"x", Kind::input},  {"residual", Kind::input},
        {"weight", Kind::input}, {"rows", Kind::count}, {"cols", Kind::integer}, {"eps", Kind::real},
        {"dtype", Kind::integer},
    };
    int64_t cost() const { return rows * cols * (3 * element_bytes(dtype) + 1); }

    Quantized to;
    void* sum;             // (rows, cols), may be `residual`; all tensors are dense
    const void* x;         // (rows, cols)
    const void* residual;  // (rows, cols)
    const float* weight;   // (cols)
    int64_t rows, cols;
    double eps;
    int64_t dtype;
};

struct ActivationAndMulQuantize {
    static constexpr std::string_view name = "activation_and_mul_quantize";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        OZONE_QUANTIZED_FIELDS,  {"x", Kind::input},            {"rows", Kind::count},
        {"cols", Kind::integer}, {"activation", Kind::integer}, {"dtype", Kind::integer},
    };
    int64_t cost() const { return rows * cols * (2 * element_bytes(dtype) + 1); }

    Quantized to;
    const void* x;  // (rows, 2 cols), dense
    int64_t rows, cols, activation, dtype;
};

}  // namespace ozone
