// Gated activations (Shazeer, 2020), in float32 whatever the activations' type.
#pragma once

#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// In integer fields named `activation`. Python has the same table (ozone/ops/activation.py).
enum class Activation : int64_t { silu = 0, gelu_tanh = 1 };

// out[i] = activation(x[i]) * x[cols + i], the activation rounded to the activations' type
struct ActivationAndMul {
    static constexpr std::string_view name = "activation_and_mul";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"out", Kind::output},   {"x", Kind::input},            {"rows", Kind::count},
        {"cols", Kind::integer}, {"activation", Kind::integer}, {"dtype", Kind::integer},
    };
    int64_t cost() const { return 3 * rows * cols * element_bytes(dtype); }

    void* out;      // (rows, cols), dense
    const void* x;  // (rows, 2 cols), dense
    int64_t rows, cols, activation, dtype;
};

}  // namespace ozone
