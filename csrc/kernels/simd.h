// Vectors of floats: one type and a few functions, the same source for every instruction set.
//
// F32 is a GCC vector, so + - * / and comparisons are written as such. Products and sums are contracted only
// where `fma` says so. Everything lives in the namespace of its instruction set: an inline function that two
// sources compile for different CPUs must not be merged by the linker. For the same reason, kernel sources use
// nothing of the standard library but what the compiler expands in place.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/types.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace ozone::OZONE_ISA {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#else
inline constexpr int kLanes = 8;
#endif

typedef float F32 __attribute__((vector_size(kLanes * 4)));
typedef int32_t I32 __attribute__((vector_size(kLanes * 4)));
typedef uint16_t U16Lanes __attribute__((vector_size(kLanes * 2)));
typedef uint8_t U8 __attribute__((vector_size(kLanes)));

#define OZONE_INLINE inline __attribute__((always_inline))

OZONE_INLINE F32 splat(float x) { return x - F32{}; }  // of -0 too

OZONE_INLINE F32 fma(F32 a, F32 b, F32 c) {
#if defined(__AVX512F__)
    return (F32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (F32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

// Of a NaN and a number, `b`.
OZONE_INLINE F32 max(F32 a, F32 b) {
#if defined(__AVX512F__)
    return (F32)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (F32)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}

OZONE_INLINE F32 min(F32 a, F32 b) {
#if defined(__AVX512F__)
    return (F32)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (F32)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return a < b ? a : b;
#endif
}

OZONE_INLINE F32 abs(F32 x) { return (F32)((I32)x & 0x7fffffff); }

OZONE_INLINE I32 max(I32 a, I32 b) {
#if defined(__AVX512F__)
    return (I32)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (I32)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    return a > b ? a : b;
#endif
}

// Lanes of `a` where `mask` is -1, of `b` where it is 0.
OZONE_INLINE F32 select(I32 mask, F32 a, F32 b) { return (F32)(((I32)a & mask) | ((I32)b & ~mask)); }
OZONE_INLINE I32 select(I32 mask, I32 a, I32 b) { return (a & mask) | (b & ~mask); }

OZONE_INLINE float scalar_max(float a, float b) { return a > b ? a : b; }
OZONE_INLINE float scalar_min(float a, float b) { return a < b ? a : b; }

OZONE_INLINE float sum(F32 x) {
    float total[kLanes];
    std::memcpy(total, &x, sizeof x);
    for (int width = kLanes / 2; width; width /= 2)
        for (int i = 0; i < width; ++i) total[i] += total[i + width];
    return total[0];
}

OZONE_INLINE float largest(F32 x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)x);
#else
    float found[kLanes];
    std::memcpy(found, &x, sizeof x);
    for (int width = kLanes / 2; width; width /= 2)
        for (int i = 0; i < width; ++i) found[i] = scalar_max(found[i], found[i + width]);
    return found[0];
#endif
}

OZONE_INLINE int32_t largest(I32 x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_epi32((__m512i)x);
#else
    int32_t found[kLanes];
    std::memcpy(found, &x, sizeof x);
    for (int width = kLanes / 2; width; width /= 2)
        for (int i = 0; i < width; ++i) found[i] = found[i] > found[i + width] ? found[i] : found[i + width];
    return found[0];
#endif
}

// The low bits of integers.
OZONE_INLINE U16Lanes low16(I32 x) {
#if defined(__AVX512F__)
    return (U16Lanes)_mm512_cvtepi32_epi16((__m512i)x);
#elif defined(__AVX2__)
    const __m256i low = _mm256_and_si256((__m256i)x, _mm256_set1_epi32(0xffff));
    return (U16Lanes)_mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08));
#else
    return __builtin_convertvector(x, U16Lanes);
#endif
}
OZONE_INLINE U8 low8(I32 x) {
#if defined(__AVX512F__)
    return (U8)_mm512_cvtepi32_epi8((__m512i)x);
#elif defined(__AVX2__)
    const __m128i words = (__m128i)low16(x & 0xff);
    const int64_t bytes = _mm_cvtsi128_si64(_mm_packus_epi16(words, words));
    U8 result;
    std::memcpy(&result, &bytes, sizeof result);
    return result;
#else
    return __builtin_convertvector(x, U8);
#endif
}

// e^x to 1 unit in the last place. Results below 2^-125 may be zero; that of -inf is.
OZONE_INLINE F32 exp(F32 x) {
    const F32 clamped = min(splat(89.0f), max(splat(-104.0f), x));  // both keep a NaN
    // x = n ln 2 + r with |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer, which the low bits then hold.
    const F32 magic = splat(12582912.0f);
    const F32 shifted = fma(clamped, splat(1.44269504f), magic);
    const F32 n = shifted - magic;
    F32 r = fma(n, splat(-0.693359375f), clamped);
    r = fma(n, splat(2.12194440e-4f), r);
    // Cephes' polynomial of (e^r - 1 - r) / r^2.
    F32 y = fma(splat(1.9875691500e-4f), r, splat(1.3981999507e-3f));
    y = fma(y, r, splat(8.3334519073e-3f));
    y = fma(y, r, splat(4.1665795894e-2f));
    y = fma(y, r, splat(1.6666665459e-1f));
    y = fma(y, r, splat(5.0000001201e-1f));
    y = fma(y, r * r, r) + 1.0f;
#if defined(__AVX512F__)
    return (F32)_mm512_scalef_ps((__m512)y, (__m512)n);
#else
    // 2^n in two factors: 2^128 is not a float, e^88.7 is.
    const I32 power = (I32)shifted - (I32)magic, half = power >> 1;
    y = y * (F32)((half + 127) << 23) * (F32)((power - half + 127) << 23);
    return select(x < -86.6f, splat(0), y);
#endif
}

// 2^x to 1 unit in the last place; below 2^-126 something between that and 0. Two thirds of what `exp` costs.
OZONE_INLINE F32 exp2(F32 x) {
#if defined(__AVX512F__)
    const F32 fraction = (F32)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#else
    const F32 clamped = min(splat(128.0f), max(splat(-126.0f), x));  // both keep a NaN
    const F32 magic = splat(12582912.0f), shifted = clamped - 0.5f + magic, fraction = clamped - (shifted - magic);
#endif
    // Fitted to 2^fraction with the least relative error, 2e-9, and none at 0.
    F32 y = fma(splat(2.1612914861e-4f), fraction, splat(1.2467846973e-3f));
    y = fma(y, fraction, splat(9.6754515544e-3f));
    y = fma(y, fraction, splat(5.5485282093e-2f));
    y = fma(y, fraction, splat(2.4022930861e-1f));
    y = fma(y, fraction, splat(6.9314706326e-1f));
    y = fma(y, fraction, splat(1.0f));
#if defined(__AVX512F__)
    return (F32)_mm512_scalef_ps((__m512)y, (__m512)x);  // by 2^floor(x)
#else
    return y * (F32)(((I32)shifted - (I32)magic + 127) << 23);
#endif
}

inline constexpr float kLog2E = 1.44269504f;

// The hyperbolic tangent, to 2^-23 absolutely.
OZONE_INLINE F32 tanh(F32 x) {
    const F32 e = exp2(abs(x) * (-2.0f * kLog2E));
    const F32 t = (1.0f - e) / (1.0f + e);
    return (F32)((I32)t | ((I32)x & static_cast<int32_t>(0x80000000)));
}

// ---- single numbers ----

OZONE_INLINE float to_float(float x) { return x; }
OZONE_INLINE float to_float(bf16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
OZONE_INLINE float to_float(f16 x) {
#if defined(__F16C__)
    return _cvtsh_ss(x.bits);
#else
    _Float16 half;
    std::memcpy(&half, &x.bits, 2);
    return static_cast<float>(half);
#endif
}

template <typename T>
OZONE_INLINE T from_float(float x);
template <>
OZONE_INLINE float from_float<float>(float x) {
    return x;
}
template <>
OZONE_INLINE bf16 from_float<bf16>(float x) {  // to nearest, ties to even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (x != x) return {0x7fc0};
    return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
template <>
OZONE_INLINE f16 from_float<f16>(float x) {
#if defined(__F16C__)
    return {static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT))};
#else
    const _Float16 half = static_cast<_Float16>(x);
    f16 result;
    std::memcpy(&result.bits, &half, 2);
    return result;
#endif
}

// ---- kLanes numbers ----

OZONE_INLINE F32 load(const float* from) {
    F32 x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
OZONE_INLINE F32 load(const bf16* from) {
#if defined(__AVX512F__)
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return (F32)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
#elif defined(__AVX2__)
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return (F32)_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
#else
    U16Lanes bits;
    std::memcpy(&bits, from, sizeof bits);
    return (F32)(__builtin_convertvector(bits, I32) << 16);
#endif
}
OZONE_INLINE F32 load(const f16* from) {
#if defined(__AVX512F__)
    return (F32)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__F16C__)
    return (F32)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
    // Exponent and mantissa in place are the number times 2^-112, subnormal or not.
    // g++ does comparisons and conversions of vectors longer than registers number by number.
    typedef uint16_t Halves __attribute__((vector_size(16)));
    Halves bits, wide[2];
    std::memcpy(&bits, from, sizeof bits);
    wide[0] = __builtin_shuffle(bits, Halves{}, Halves{0, 8, 1, 9, 2, 10, 3, 11});
    wide[1] = __builtin_shuffle(bits, Halves{}, Halves{4, 12, 5, 13, 6, 14, 7, 15});
    I32 whole;
    std::memcpy(&whole, wide, sizeof whole);
    const F32 number = (F32)((whole & 0x7fff) << 13) * splat(0x1p112f);
    const I32 infinite_or_nan = -(((whole & 0x7c00) + 0x400) >> 15) & 0x7f800000;
    return (F32)((I32)number | infinite_or_nan | (whole & 0x8000) << 16);
#endif
}

OZONE_INLINE void store(float* to, F32 x) { std::memcpy(to, &x, sizeof x); }
OZONE_INLINE void store(bf16* to, F32 x) {
#if defined(__AVX512BF16__)
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)x);
    std::memcpy(to, &rounded, sizeof rounded);
#else
    const I32 bits = select(x == x, (I32)x, I32{} + 0x7fc00000);
    const U16Lanes stored = low16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    std::memcpy(to, &stored, sizeof stored);
#endif
}
OZONE_INLINE void store(f16* to, F32 x) {
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#else
    for (int i = 0; i < kLanes; ++i) to[i] = from_float<f16>(x[i]);
#endif
}

// kLanes unsigned bytes. (g++ 12 converts them one by one if left to it.)
OZONE_INLINE I32 widen(const void* from) {
#if defined(__AVX512F__)
    return (I32)_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(from)));
#elif defined(__AVX2__)
    return (I32)_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(from)));
#else
    U8 bytes;
    std::memcpy(&bytes, from, sizeof bytes);
    return __builtin_convertvector(bytes, I32);
#endif
}

// The numbers whose e4m3 codes are in the low byte of each lane; exact.
OZONE_INLINE F32 e4m3_value(I32 code) {
    const I32 magnitude = (code & 0x7f) << 20;
    // The exponent is rebased. Below 2^-6 there is no implicit one: 2^-6 (1 + m / 8) - 2^-6 has no need of it,
    // and makes no float that is subnormal on its way, which some CPUs are slow at.
    const F32 normal = (F32)(magnitude + (120 << 23)), small = (F32)(magnitude + (121 << 23)) - 0.015625f;
    const I32 value = select(magnitude < (8 << 20), (I32)small, (I32)normal);
    return (F32)(select(magnitude == (0x7f << 20), I32{} + 0x7fc00000, value) | ((code & 0x80) << 24));
}
OZONE_INLINE F32 load(const e4m3* from) { return e4m3_value(widen(from)); }
// To nearest, ties to even; what is too large becomes the largest, NaN stays NaN.
OZONE_INLINE void store(e4m3* to, F32 x) {
    const F32 magnitude = min(abs(x), splat(448.0f));  // of NaN too, which comes in at the end
    // Codes of one power of two, 2^e, are steps of 2^(e-3), and so are those of subnormals, which end at 2^-6.
    // Adding 2^(e+20) rounds to such a step, and leaves their number in the low bits. The exponent of the sum,
    // counted from that of 2^-6 and times 8, is what is missing; the offset of 152 makes its low byte right.
    const F32 power = max(splat(0.015625f), (F32)((I32)magnitude & 0x7f800000));
    const I32 sum = (I32)(magnitude + (F32)((I32)power + ((20 << 23) | 152)));
    const I32 code = (sum + (sum >> 20)) | (x != x);
    const U8 bytes = low8((code & 0x7f) | (((I32)x >> 24) & 0x80));
    std::memcpy(to, &bytes, sizeof bytes);
}

// To nearest, ties to even, within [-128, 127]; NaN becomes 0.
OZONE_INLINE void store(int8_t* to, F32 x) {
    const F32 clamped = min(splat(127), max(splat(-128), x));
    const U8 bytes = low8((I32)(clamped + 12582912.0f));  // 1.5 * 2^23 leaves the integer in the low bits
    std::memcpy(to, &bytes, sizeof bytes);
}

OZONE_INLINE float to_float(e4m3 x) {
    const e4m3 all[kLanes] = {x};
    return load(all)[0];
}
template <>
OZONE_INLINE e4m3 from_float<e4m3>(float x) {
    e4m3 all[kLanes];
    store(all, splat(x));
    return all[0];
}

// The first `count` < kLanes numbers; the lanes behind them are `fill`.
template <typename T>
OZONE_INLINE F32 load_some(const T* from, int64_t count, float fill = 0.0f) {
    F32 x = splat(fill);
    for (int64_t i = 0; i < count; ++i) x[i] = to_float(from[i]);
    return x;
}
template <typename T>
OZONE_INLINE void store_some(T* to, F32 x, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = from_float<T>(x[i]);
}
#if defined(__AVX512F__)
template <>
OZONE_INLINE F32 load_some(const float* from, int64_t count, float fill) {
    return (F32)_mm512_mask_loadu_ps((__m512)splat(fill), static_cast<__mmask16>((1 << count) - 1), from);
}
template <>
OZONE_INLINE F32 load_some(const bf16* from, int64_t count, float fill) {
    const __m256i behind = _mm256_set1_epi16(static_cast<int16_t>(from_float<bf16>(fill).bits));
    const __m256i bits = _mm256_mask_loadu_epi16(behind, static_cast<__mmask16>((1 << count) - 1), from);
    return (F32)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}
template <>
OZONE_INLINE void store_some(float* to, F32 x, int64_t count) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1 << count) - 1), (__m512)x);
}
template <>
OZONE_INLINE void store_some(bf16* to, F32 x, int64_t count) {
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)x);
    _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1 << count) - 1), (__m256i)rounded);
}
#endif

// Rounds as a store to T and a load from it would.
template <typename T>
OZONE_INLINE F32 rounded_to(F32 x) {
    T stored[kLanes];
    store(stored, x);
    return load(stored);
}
template <>
OZONE_INLINE F32 rounded_to<float>(F32 x) {
    return x;
}

// ---- calls by type ----

// Calls `body(T{})` with T the element type that `code` names.
template <typename Body>
OZONE_INLINE void with_type(int64_t code, Body body) {
    switch (static_cast<DType>(code)) {
        case DType::f32: return body(float{});
        case DType::bf16: return body(bf16{});
        case DType::f16: return body(f16{});
    }
}

}  // namespace ozone::OZONE_ISA
