// What kernels with gated activations (Shazeer, 2020) share, so that a fused one gives the bits of its parts.
#pragma once

#include "kernels/activation.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

// x / (1 + e^-x), to (3 + |x| / 2) 1e-7 relatively.
OZONE_INLINE F32 silu(F32 x) { return x / (1.0f + exp2(x * -kLog2E)); }

// x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), as x / (1 + e^-2u), which keeps its relative
// precision where tanh(u) is near -1: to (3 + 4 |u|) 1e-7.
OZONE_INLINE F32 gelu_tanh(F32 x) {
    constexpr float scale = -2 * 0.79788456f * kLog2E;
    return x / (1.0f + exp2(x * fma(x * x, splat(scale * 0.044715f), splat(scale))));
}

// out = activation(gate) * up; the activation is rounded to T before it is multiplied, as where it is an op.
template <typename T>
OZONE_INLINE void gate(T* out, const T* gate, const T* up, int64_t cols, int64_t activation) {
    const auto rows = [&](auto activate) {
        int64_t i = 0;
        for (; i + kLanes <= cols; i += kLanes)
            store(out + i, rounded_to<T>(activate(load(gate + i))) * load(up + i));
        const int64_t rest = cols - i;
        if (rest)
            store_some(out + i, rounded_to<T>(activate(load_some(gate + i, rest))) * load_some(up + i, rest), rest);
    };
    switch (static_cast<Activation>(activation)) {
        case Activation::silu: return rows([](F32 x) { return silu(x); });
        case Activation::gelu_tanh: return rows([](F32 x) { return gelu_tanh(x); });
    }
}

}  // namespace ozone::OZONE_ISA
