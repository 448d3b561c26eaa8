// What kernels that normalize rows share, so that a fused one gives the bits of its parts.
#pragma once

#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

// One over the root mean square of `cols` numbers.
template <typename T>
OZONE_INLINE float inverse_rms(const T* x, int64_t cols, double eps) {
    F32 total = splat(0);
    int64_t i = 0;
    for (; i + kLanes <= cols; i += kLanes) {
        const F32 v = load(x + i);
        total = fma(v, v, total);
    }
    const F32 v = load_some(x + i, cols - i);
    total = fma(v, v, total);
    return 1.0f / __builtin_sqrtf(sum(total) / static_cast<float>(cols) + static_cast<float>(eps));
}

template <typename T>
OZONE_INLINE void normalize(T* out, const T* x, const float* weight, int64_t cols, double eps) {
    const F32 factor = splat(inverse_rms(x, cols, eps));
    int64_t i = 0;
    for (; i + kLanes <= cols; i += kLanes) store(out + i, load(x + i) * factor * load(weight + i));
    store_some(out + i, load_some(x + i, cols - i) * factor * load_some(weight + i, cols - i), cols - i);
}

}  // namespace ozone::OZONE_ISA
