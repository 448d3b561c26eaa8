// Vectors of doubles, for sums over a vocabulary that have to be exact where a choice hangs on them.
#pragma once

#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

inline constexpr int kDoubles = kLanes / 2;

typedef double F64 __attribute__((vector_size(kDoubles * 8)));
typedef int64_t I64 __attribute__((vector_size(kDoubles * 8)));
typedef uint64_t U64 __attribute__((vector_size(kDoubles * 8)));

OZONE_INLINE F64 splat(double x) { return x - F64{}; }

OZONE_INLINE F64 load(const double* from) {
    F64 x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
OZONE_INLINE void store(double* to, F64 x) { std::memcpy(to, &x, sizeof x); }

// kDoubles floats as doubles.
OZONE_INLINE F64 widen(const float* from) {
#if defined(__AVX512F__)
    return (F64)_mm512_cvtps_pd(_mm256_loadu_ps(from));
#elif defined(__AVX2__)
    return (F64)_mm256_cvtps_pd(_mm_loadu_ps(from));
#else
    typedef float Floats __attribute__((vector_size(kDoubles * 4)));
    Floats x;
    std::memcpy(&x, from, sizeof x);
    return __builtin_convertvector(x, F64);
#endif
}

OZONE_INLINE F64 fma(F64 a, F64 b, F64 c) {
#if defined(__AVX512F__)
    return (F64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
    return (F64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return a * b + c;
#endif
}

// x where it is at least `bound`, elsewhere 0.
OZONE_INLINE F64 zero_below(F64 x, F64 compared, F64 bound) {
#if defined(__AVX512F__)
    return (F64)_mm512_maskz_mov_pd(_mm512_cmp_pd_mask((__m512d)compared, (__m512d)bound, _CMP_GE_OQ), (__m512d)x);
#else
    return (F64)((I64)x & (compared >= bound));
#endif
}

OZONE_INLINE double sum(F64 x) {
    double total[kDoubles];
    std::memcpy(total, &x, sizeof x);
    for (int width = kDoubles / 2; width; width /= 2)
        for (int i = 0; i < width; ++i) total[i] += total[i + width];
    return total[0];
}

// 2^(i / 16)
alignas(64) inline constexpr double kSixteenthPowers[16] = {
    0x1.0000000000000p+0, 0x1.0b5586cf9890fp+0, 0x1.172b83c7d517bp+0, 0x1.2387a6e756238p+0,
    0x1.306fe0a31b715p+0, 0x1.3dea64c123422p+0, 0x1.4bfdad5362a27p+0, 0x1.5ab07dd485429p+0,
    0x1.6a09e667f3bcdp+0, 0x1.7a11473eb0187p+0, 0x1.8ace5422aa0dbp+0, 0x1.9c49182a3f090p+0,
    0x1.ae89f995ad3adp+0, 0x1.c199bdd85529cp+0, 0x1.d5818dcfba487p+0, 0x1.ea4afa2a490dap+0,
};

OZONE_INLINE F64 sixteenth_power(I64 n) {  // of the lowest four bits of n
#if defined(__AVX512F__)
    return (F64)_mm512_permutex2var_pd(_mm512_load_pd(kSixteenthPowers), (__m512i)n,
                                       _mm512_load_pd(kSixteenthPowers + 8));
#elif defined(__AVX2__)
    return (F64)_mm256_i64gather_pd(kSixteenthPowers, (__m256i)(n & 15), 8);
#else
    F64 power;
    for (int i = 0; i < kDoubles; ++i) power[i] = kSixteenthPowers[n[i] & 15];
    return power;
#endif
}

// e^x for -708 <= x <= 0, to within one unit in the last place or so; for x below, or NaN, some number.
//
// x = n ln(2) / 16 + r, |r| <= ln(2) / 32: a power out of a table times a polynomial, which is a minimax
// approximation with an error of 2^-56. ln(2) / 16 is subtracted in two parts, the first with few enough bits
// that its product with n is exact.
OZONE_INLINE F64 exp_of_negative(F64 x) {
    const F64 rounder = splat(0x1.8p52);  // leaves an integer in the lowest bits
    const F64 shifted = fma(x, splat(0x1.71547652b82fep+4), rounder);
    const I64 n = (I64)shifted;
    const F64 whole = shifted - rounder;
    const F64 r = fma(whole, splat(-0x1.f473de6af278fp-34), fma(whole, splat(-0x1.62e42fe000000p-5), x));
    const F64 r2 = r * r;
    const F64 low = fma(r, splat(0x1.555555548f86cp-3), splat(0x1.0000000000005p-1));
    const F64 high = fma(r, splat(0x1.11123aafc4c87p-7), splat(0x1.555555545eb5bp-5));
    const F64 p = fma(fma(fma(r2, splat(0x1.6c185de4d81abp-10), high), r2, low), r2, r);
    const F64 power = sixteenth_power(n);
    // Unsigned, since bits of an x below -708 run over.
    return (F64)((U64)fma(power, p, power) + ((U64)(n & ~int64_t{15}) << 48));
}

}  // namespace ozone::OZONE_ISA
