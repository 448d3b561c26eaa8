// Finding the largest of many floats without sorting them.
//
// One pass over a row keeps the largest number of each lane of each block. The k-th largest of these maxima is a
// bound that at least k numbers of the row reach and, in no particular order, not many more; and a block whose
// maxima do not reach it need not be read again.
#pragma once

#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

inline constexpr int kBlockVectors = 16;
inline constexpr int64_t kBlock = kBlockVectors * kLanes;
inline constexpr float kInfinity = __builtin_inff();

// Numbers with the maxima of their blocks.
struct Row {
    const float* values;
    int64_t size;
    const float* maxima;  // (blocks, kLanes)
    float top;            // the largest value, or NaN if one is

    int64_t blocks() const { return (size + kBlock - 1) / kBlock; }
};

// Bytes of `maxima` for that many values.
constexpr int64_t maxima_bytes(int64_t size) { return (size + kBlock - 1) / kBlock * kLanes * 4; }

// One bit for each lane that is at least `bound`.
OZONE_INLINE uint32_t at_least(F32 x, F32 bound) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)x, (__m512)bound, _CMP_GE_OQ);
#elif defined(__AVX2__)
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)x, (__m256)bound, _CMP_GE_OQ)));
#else
    const I32 lanes = x >= bound;
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= (lanes[i] & 1u) << i;
    return bits;
#endif
}

// A vector of `row` from `at` on; lanes behind the end are `fill`.
OZONE_INLINE F32 load_until(const float* row, int64_t at, int64_t size, float fill) {
    if (at + kLanes <= size) return load(row + at);
    return load_some(row + at, at < size ? size - at : 0, fill);
}

// Reads the row once: its maxima, and with kCopy a copy of it.
template <bool kCopy>
OZONE_INLINE Row survey(const float* values, int64_t size, float* maxima, float* copy = nullptr) {
#if defined(__AVX512F__)
    __mmask16 nan = 0;
    const auto look = [&](F32 x, F32 y) { nan |= _mm512_cmp_ps_mask((__m512)x, (__m512)y, _CMP_UNORD_Q); };
#else
    I32 nan{};
    const auto look = [&](F32 x, F32 y) { nan |= (x != x) | (y != y); };
#endif
    F32 top = splat(-kInfinity);
    const int64_t whole = size / kBlock;
    for (int64_t block = 0; block < whole; ++block) {
        F32 even = splat(-kInfinity), odd = even;
        for (int64_t at = block * kBlock; at < (block + 1) * kBlock; at += 2 * kLanes) {
            const F32 x = load(values + at), y = load(values + at + kLanes);
            if (kCopy) store(copy + at, x), store(copy + at + kLanes, y);
            even = max(x, even), odd = max(y, odd);
            look(x, y);
        }
        even = max(even, odd);
        store(maxima + block * kLanes, even);
        top = max(even, top);
    }
    if (whole * kBlock < size) {
        F32 last = splat(-kInfinity);
        for (int64_t at = whole * kBlock; at < size; at += kLanes) {
            const F32 x = load_until(values, at, size, -kInfinity);
            if (kCopy) store(copy + at, x);  // the copy has room for a whole vector
            last = max(x, last);
            look(x, x);
        }
        store(maxima + whole * kLanes, last);
        top = max(last, top);
    }
    bool found = false;
#if defined(__AVX512F__)
    found = nan != 0;
#else
    for (int i = 0; i < kLanes; ++i) found |= nan[i] != 0;
#endif
    return {values, size, maxima, found ? __builtin_nanf("") : largest(top)};
}

OZONE_INLINE int64_t count_at_least(const float* values, int64_t size, float bound) {
    const F32 bounds = splat(bound);
    I32 counts{};
    int64_t at = 0;
    for (; at + kLanes <= size; at += kLanes) counts -= load(values + at) >= bounds;
    int64_t count = 0;
    for (int i = 0; i < kLanes; ++i) count += counts[i];
    for (; at < size; ++at) count += values[at] >= bound;
    return count;
}

// The least of the values that are at least `bound`.
OZONE_INLINE float least_from(const float* values, int64_t size, float bound) {
    const F32 bounds = splat(bound);
    F32 least = splat(kInfinity);
    int64_t at = 0;
    for (; at + kLanes <= size; at += kLanes) {
        const F32 x = load(values + at);
        least = min(x >= bounds ? x : splat(kInfinity), least);
    }
    float found = -largest(-least);
    for (; at < size; ++at)
        if (values[at] >= bound) found = scalar_min(found, values[at]);
    return found;
}

// The count-th largest of values without NaN, 1 <= count <= size. Bit by bit: the greatest number that `count`
// values reach, where numbers in ascending order are represented by integers in ascending order.
inline float nth_largest(const float* values, int64_t size, int64_t count) {
    constexpr uint32_t kOfMinusInfinity = 0x007fffff;
    uint32_t key = 0;
    float found = -kInfinity;
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
        const uint32_t tried = key | bit;
        if (tried <= kOfMinusInfinity) continue;
        const uint32_t bits = tried & 0x80000000u ? tried & 0x7fffffffu : ~tried;
        float bound;
        std::memcpy(&bound, &bits, 4);
        if (bound != bound) continue;
        const int64_t reached = count_at_least(values, size, bound);
        if (reached == count) return least_from(values, size, bound);
        if (reached < count) continue;
        key = tried;
        found = bound;
    }
    return found;
}

// Collects the indices, ascending, of the values that are at least `bound`. Returns how many there are, or more
// than `capacity` where they are more than that. `indices` has room for `capacity` + kBlock.
inline int64_t collect(const Row& row, float bound, int64_t capacity, int32_t* indices) {
    const F32 bounds = splat(bound);
    int64_t count = 0;
    for (int64_t block = 0; block < row.blocks() && count <= capacity; ++block) {
        if (!at_least(load(row.maxima + block * kLanes), bounds)) continue;
        for (int64_t at = block * kBlock; at < (block + 1) * kBlock && at < row.size; at += kLanes) {
            const F32 x = load_until(row.values, at, row.size, -kInfinity);
            uint32_t lanes = at_least(x, bounds);
            if (at + kLanes > row.size) lanes &= (1u << (row.size - at)) - 1;  // `bound` may be -infinity
#if defined(__AVX512F__)
            const __m512i positions = _mm512_add_epi32(
                _mm512_set1_epi32(static_cast<int>(at)),
                _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
            // To a register first: compressing into memory takes a hundred cycles on some CPUs.
            _mm512_storeu_si512(indices + count,
                                _mm512_maskz_compress_epi32(static_cast<__mmask16>(lanes), positions));
            count += __builtin_popcount(lanes);
#else
            for (; lanes; lanes &= lanes - 1) indices[count++] = static_cast<int32_t>(at + __builtin_ctz(lanes));
#endif
        }
    }
    return count;
}

// A number that at least `count` values of the row reach and, if those are in no order, few more; or -infinity
// where the row has too few blocks to tell.
inline float bound_of_largest(const Row& row, int64_t count) {
    constexpr int64_t kMost = 4096;
    const int64_t groups = row.blocks() * kLanes, most = groups < kMost ? groups : kMost;
    if (count > most / 8 * 7) return -kInfinity;
    // Of four times as many groups, few hold more than one of the largest.
    int64_t kept = (4 * count + kLanes - 1) / kLanes * kLanes;
    if (kept > most) kept = most;
    const int64_t fold = groups / kept;
    kept = groups / fold / kLanes * kLanes;
    if (kept > kMost) kept = kMost;
    float maxima[kMost];
    for (int64_t i = 0; i < kept; i += kLanes) {
        F32 largest_of = load(row.maxima + i);
        for (int64_t part = 1; part < fold; ++part) largest_of = max(load(row.maxima + part * kept + i), largest_of);
        store(maxima + i, largest_of);
    }
    return nth_largest(maxima, kept, count);
}

// The nth largest value of the row. `count` becomes the number of values collected on the way, at least all from
// that value on, with their indices; or -1 where more than `capacity` would have been. Both arrays have room for
// `capacity` + kBlock.
inline float nth_largest(const Row& row, int64_t nth, int64_t capacity, float* values, int32_t* indices,
                         int64_t& count) {
    count = -1;
    const float bound = bound_of_largest(row, nth);
    if (bound == -kInfinity) return nth_largest(row.values, row.size, nth);
    const int64_t collected = collect(row, bound, capacity, indices);
    if (collected > capacity) return nth_largest(row.values, row.size, nth);
    count = collected;
    for (int64_t i = 0; i < count; ++i) values[i] = row.values[indices[i]];
    return nth_largest(values, count, nth);
}

}  // namespace ozone::OZONE_ISA
