// Arithmetic on one element at a time, in float32 whatever the activations' type.
#pragma once

#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// In integer fields named `operation`. Python has the same table (ozone/ops/elementwise.py).
enum class Operation : int64_t {
    add = 0,      // x + y
    scale = 1,    // x * factor
    softcap = 2,  // factor * tanh(x / factor)
};

struct Elementwise {
    static constexpr std::string_view name = "elementwise";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"out", Kind::output},    {"x", Kind::input},           {"y", Kind::input},     {"rows", Kind::count},
        {"cols", Kind::integer},  {"operation", Kind::integer}, {"factor", Kind::real}, {"dtype", Kind::integer},
    };
    int64_t cost() const { return (y ? 3 : 2) * rows * cols * element_bytes(dtype); }

    void* out;      // (rows, cols); all tensors are dense
    const void* x;  // (rows, cols)
    const void* y;  // (rows, cols), or null where the operation has one operand
    int64_t rows, cols, operation;
    double factor;
    int64_t dtype;
};

}  // namespace ozone
