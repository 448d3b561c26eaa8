// What kernels that normalize rows share, so that a fused one gives the bits of its parts.
#pragma once

#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

// One over the root mean square of `cols` numbers.
template <typename T>
OZONE_INLINE float inverse_rms(const T* x, int64_t cols, double eps) {
    F32 totals[4] = {};  // one would wait for itself
    int64_t i = 0;
    for (; i + 4 * kLanes <= cols; i += 4 * kLanes)
        for (int j = 0; j < 4; ++j) {
            const F32 v = load(x + i + j * kLanes);
            totals[j] = fma(v, v, totals[j]);
        }
    for (; i < cols; i += kLanes) {
        const F32 v = i + kLanes <= cols ? load(x + i) : load_some(x + i, cols - i);
        totals[0] = fma(v, v, totals[0]);
    }
    const float total = sum((totals[0] + totals[1]) + (totals[2] + totals[3]));
    return 1.0f / __builtin_sqrtf(total / static_cast<float>(cols) + static_cast<float>(eps));
}

template <typename T>
OZONE_INLINE void normalize(T* out, const T* x, const float* weight, int64_t cols, double eps) {
    const F32 factor = splat(inverse_rms(x, cols, eps));
    int64_t i = 0;
    for (; i + kLanes <= cols; i += kLanes) store(out + i, load(x + i) * factor * load(weight + i));
    store_some(out + i, load_some(x + i, cols - i) * factor * load_some(weight + i, cols - i), cols - i);
}

template <typename T>
OZONE_INLINE void add(T* sum, const T* x, const T* y, int64_t cols) {
    int64_t i = 0;
    for (; i + kLanes <= cols; i += kLanes) store(sum + i, load(x + i) + load(y + i));
    store_some(sum + i, load_some(x + i, cols - i) + load_some(y + i, cols - i), cols - i);
}

}  // namespace ozone::OZONE_ISA
