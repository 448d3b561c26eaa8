// Elementary functions of vectors of floats, the same to the bit wherever one instruction set computes them.
#pragma once

#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

// To within 1 unit in the last place. Below -87.33654, where results would be subnormal, 0; NaN stays NaN.
// Reduction and polynomial as in Cephes (Moshier, https://www.netlib.org/cephes): x = n ln 2 + r, |r| <= ln 2 / 2.
OZONE_INLINE F32 exp(F32 x) {
    const F32 nearest = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    // Two factors of 2^(n / 2) reach infinity, which one float's exponent does not. `x` second: NaN passes.
    const F32 clamped = min(splat(89.0f), max(splat(-87.33654f), x));
    const F32 n = fma(clamped, splat(1.44269504088896341f), nearest) - nearest;
    const F32 r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), clamped));
    F32 p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = fma(p, r * r, r) + splat(1.0f);
    const I32 whole = __builtin_convertvector(n, I32), half = whole >> 1;
    const F32 first = (F32)((half + 127) << 23), second = (F32)((whole - half + 127) << 23);
    const F32 result = p * first * second;
    return (F32)((I32)result & (x >= splat(-87.33654f) || x != x));
}

// To within 2 units in the last place; NaN stays NaN.
OZONE_INLINE F32 tanh(F32 x) {
    // Near 0, where 1 - 2 / (e^2x + 1) loses digits, a polynomial (Cephes).
    const F32 square = x * x;
    F32 p = splat(-5.70498872745e-3f);
    p = fma(p, square, splat(2.06390887954e-2f));
    p = fma(p, square, splat(-5.37397155531e-2f));
    p = fma(p, square, splat(1.33314422036e-1f));
    p = fma(p, square, splat(-3.33332819422e-1f));
    const F32 small = fma(p * square, x, x);
    const F32 size = abs(x), large = splat(1.0f) - splat(2.0f) / (exp(size + size) + splat(1.0f));
    const F32 signed_large = (F32)((I32)large | ((I32)x & INT32_MIN));
    return size < splat(0.625f) ? small : signed_large;
}

}  // namespace ozone::OZONE_ISA
