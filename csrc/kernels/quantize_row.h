// How a row becomes numbers of 8 bits: what kernels that quantize share, so that a fused one gives the bits of its
// parts.
#pragma once

#include "kernels/quantize.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

inline constexpr float kLargestE4m3 = 448, kLargestInt8 = 127, kSmallestScale = 0x1p-126f;
inline constexpr int64_t kSumCols = 16;
// Large tensors begin near the beginning of a page. A row at the same place of its page would have loads wait for
// stores that only look like theirs, since CPUs compare the low 12 bits first: a quarter of the time.
inline constexpr int64_t kPlaceOffset = 1344;

// The largest magnitude of `cols` numbers; NaN where one of them is.
template <typename T>
OZONE_INLINE float magnitude_of(const T* x, int64_t cols) {
    I32 found = {};  // bits of positive floats are in the floats' order, with NaN above all
    int64_t i = 0;
    for (; i + kLanes <= cols; i += kLanes) found = max(found, (I32)abs(load(x + i)));
    if (i < cols) found = max(found, (I32)abs(load_some(x + i, cols - i)));
    const int32_t bits = largest(found);
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    return magnitude;
}

// Turns magnitudes into the scales with which they become `most`.
OZONE_INLINE void make_scales(float* scales, int64_t count, float most) {
    for (int64_t i = 0; i < count; i += kLanes) {
        const int64_t some = count - i < kLanes ? count - i : kLanes;
        const F32 scale = max(splat(kSmallestScale), load_some(scales + i, some) / most);  // keeps a NaN
        store_some(scales + i, scale, some);
    }
}

template <typename Code, typename T>
OZONE_INLINE void divide(Code* out, const T* x, int64_t cols, float scale) {
    int64_t i = 0;
    for (; i + kLanes <= cols; i += kLanes) store(out + i, load(x + i) / scale);
    if (i < cols) {
        Code all[kLanes];
        store(all, load_some(x + i, cols - i) / scale);
        for (int64_t j = 0; i + j < cols; ++j) out[i + j] = all[j];
    }
}

inline void add_up(int16_t* sums, const int8_t* x, int64_t cols) {
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 64 <= cols; i += 64) {
        // As unsigned numbers, 128 larger, eight neighbours are summed by one instruction.
        const __m512i biased = _mm512_xor_si512(_mm512_loadu_si512(x + i), _mm512_set1_epi8(-128));
        const __m512i eights = _mm512_sad_epu8(biased, _mm512_setzero_si512());
        const __m512i sixteens = _mm512_add_epi64(eights, _mm512_bsrli_epi128(eights, 8));
        const __m512i totals = _mm512_sub_epi64(sixteens, _mm512_set1_epi64(kSumCols * 128));
        const __m256i packed = _mm512_cvtepi64_epi32(totals);  // every other one is no sum
        const __m128i narrow = _mm256_cvtepi64_epi16(packed);
        std::memcpy(sums + i / kSumCols, &narrow, 4 * sizeof *sums);
    }
#endif
    for (; i < cols; i += kSumCols) {
        int total = 0;
        for (int64_t j = 0; j < kSumCols; ++j) total += x[i + j];
        sums[i / kSumCols] = static_cast<int16_t>(total);
    }
}

// Quantizes `x`, the row of that number, of out_cols numbers.
template <typename T>
void finish_row(const Quantized& to, int64_t row, const T* x) {
    const int64_t cols = to.out_cols, groups = to.group ? cols / to.group : 0;
    e4m3* fp8 = static_cast<e4m3*>(to.out) + row * cols;
    int8_t* int8 = static_cast<int8_t*>(to.out) + row * cols;
    const auto by_scales = [&](auto* out, int64_t count, int64_t width, float most) {
        float* scales = to.scale + row * count;
        for (int64_t i = 0; i < count; ++i) scales[i] = magnitude_of(x + i * width, width);
        make_scales(scales, count, most);
        for (int64_t i = 0; i < count; ++i) divide(out + i * width, x + i * width, width, scales[i]);
    };
    switch (static_cast<Target>(to.target)) {
        case Target::plain: return;
        case Target::fp8_static: return divide(fp8, x, cols, *to.static_scale);
        case Target::fp8_token: return by_scales(fp8, 1, cols, kLargestE4m3);
        case Target::fp8_group: return by_scales(fp8, groups, to.group, kLargestE4m3);
        case Target::int8_static: return divide(int8, x, cols, *to.static_scale);
        case Target::int8_token: return by_scales(int8, 1, cols, kLargestInt8);
        case Target::int8_group:
            by_scales(int8, groups, to.group, kLargestInt8);
            return add_up(to.sums + row * (cols / kSumCols), int8, cols);
    }
}

// Whether one number of a row decides how all others of it are quantized.
OZONE_INLINE bool has_scale_of_row(const Quantized& to) {
    const Target target = static_cast<Target>(to.target);
    return target == Target::fp8_token || target == Target::int8_token;
}

// Where columns [begin, end) of a row go, which are whole groups and sums: a row by itself.
OZONE_INLINE Quantized columns_of(const Quantized& to, int64_t row, int64_t begin, int64_t end) {
    const int64_t at = row * to.out_cols + begin, width = to.group ? to.group : to.out_cols;
    return {static_cast<int8_t*>(to.out) + at,
            to.scale ? to.scale + at / width : nullptr,
            to.sums ? to.sums + at / kSumCols : nullptr,
            to.static_scale,
            to.target,
            to.group,
            end - begin};
}

}  // namespace ozone::OZONE_ISA
