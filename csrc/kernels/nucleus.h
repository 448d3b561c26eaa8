// The nucleus of a distribution (Holtzman et al., 2020): the fewest most likely tokens that hold a share of it.
//
// Found without sorting: a sample of the weights tells about where the sum of the largest reaches the share; one
// pass adds up what is above that and collects what is near, which is then searched likewise. Few weights are
// searched by bisection. Nothing here branches on single weights: those branches could not be predicted.
#pragma once

#include "kernels/doubles.h"

namespace ozone::OZONE_ISA {

// Where a nucleus ends: the least weight in it, how many tokens have just this weight, and how many of those
// belong to the nucleus.
struct Cut {
    double least;
    int64_t equal, kept;
};

// ---- bisection: doubles that are not negative have the order of their bits ----

OZONE_INLINE uint64_t bits_of(double x) {
    uint64_t bits;
    std::memcpy(&bits, &x, 8);
    return bits;
}
OZONE_INLINE double of_bits(uint64_t bits) {
    double x;
    std::memcpy(&x, &bits, 8);
    return x;
}

OZONE_INLINE double middle_of(double low, double high) {
    return of_bits(bits_of(low) + (bits_of(high) - bits_of(low)) / 2);
}

struct Sum {
    double sum;
    int64_t count;
};

// Arrays that are summed are padded with zeros to a multiple of this.
inline constexpr int64_t kPadding = 4 * kDoubles;

// The values that are at least `bound`.
OZONE_INLINE Sum sum_from(const double* values, int64_t size, double bound) {
    F64 sums[4] = {};
    int64_t count = 0;
#if !defined(__AVX512F__)
    I64 counts{};
#endif
    for (int64_t at = 0; at < size; at += kPadding)
        for (int part = 0; part < 4; ++part) {
            const F64 x = load(values + at + part * kDoubles);
#if defined(__AVX512F__)
            const __mmask8 kept = _mm512_cmp_pd_mask((__m512d)x, _mm512_set1_pd(bound), _CMP_GE_OQ);
            sums[part] = (F64)_mm512_mask_add_pd((__m512d)sums[part], kept, (__m512d)sums[part], (__m512d)x);
            count += __builtin_popcount(kept);
#else
            const I64 kept = x >= splat(bound);
            sums[part] += (F64)((I64)x & kept);
            counts -= kept;
#endif
        }
#if !defined(__AVX512F__)
    for (int i = 0; i < kDoubles; ++i) count += counts[i];
#endif
    return {sum((sums[0] + sums[1]) + (sums[2] + sums[3])), count};
}

// A search for the greatest number at which the sum of the values from there on is enough: it is at `low` and is
// not at `high`.
struct Bracket {
    double low, high;
    Sum at_low, at_high;
};

// Halves the bracket until one value or `precision` numbers are left in it.
template <typename Enough>
OZONE_INLINE Bracket bisect(const double* values, int64_t size, Bracket bracket, uint64_t precision, Enough enough) {
    while (bits_of(bracket.high) - bits_of(bracket.low) > precision &&
           bracket.at_low.count - bracket.at_high.count > 1) {
        const double middle = middle_of(bracket.low, bracket.high);
        const Sum found = sum_from(values, size, middle);
        if (enough(found)) bracket.low = middle, bracket.at_low = found;
        else bracket.high = middle, bracket.at_high = found;
    }
    return bracket;
}

// ---- the search ----

inline constexpr int64_t kSample = 256;
inline constexpr uint64_t kAboutOnePercent = uint64_t{1} << 45;
inline constexpr int64_t kFew = 1024;

// Takes some of the values from `low` to `high`, evenly; at least one if there is one. Returns how many.
inline int64_t take_sample(const double* values, int64_t size, double low, double high, double* sample) {
    int64_t taken = 0;
    for (int64_t i = 0; i < kSample; ++i) {
        const double x = values[(2 * i + 1) * size / (2 * kSample)];
        sample[taken] = x;
        taken += x >= low && x <= high;
    }
    for (int64_t i = 0; taken < kSample / 8 && i < size; ++i) {
        sample[taken] = values[i];
        taken += values[i] >= low && values[i] <= high;
    }
    return taken;
}

// Guesses, by a sample, the values between which the largest of those from `low` to `high` reach `share` of them.
// The one that is not found stays as it is.
inline void guess(const double* values, int64_t size, double low, double high, double share, double* sample,
                  double& lower, double& upper) {
    const int64_t taken = take_sample(values, size, low, high, sample);
    for (int64_t i = 0; i < kPadding; ++i) sample[taken + i] = 0;
    const Bracket whole{low, of_bits(bits_of(high) + 1), {0, taken}, {0, 0}};
    const uint64_t range = bits_of(high) - bits_of(low);
    const uint64_t precision = range >> 8 < kAboutOnePercent ? range >> 8 | 1 : kAboutOnePercent;
    const double wanted = share * sum_from(sample, taken, 0x1p-1074).sum;
    const auto is_share = [=](Sum found) { return found.sum >= wanted; };
    const int64_t end = bisect(sample, taken, whole, precision, is_share).at_low.count;
    const auto value_at = [&](int64_t count) {
        const auto reaches = [=](Sum found) { return found.count >= count; };
        return bisect(sample, taken, whole, precision, reaches).low;
    };
    const int64_t margin = 8 + taken / 16;
    if (end > margin) upper = value_at(end - margin);
    if (end + margin <= taken) lower = value_at(end + margin);
}

struct Parts {
    Sum above, between;
};

// Adds up the values above `high` and at most `most`, and those from `low` to `high`. Of the latter the first
// `capacity` go to `between`, which has room for 2 kDoubles more and does not overlap.
inline Parts partition(const double* values, int64_t size, double most, double low, double high, double* between,
                       int64_t capacity) {
    Parts parts{};
    int64_t at = 0;
#if defined(__AVX512F__)
    const __m512d mosts = _mm512_set1_pd(most), lows = _mm512_set1_pd(low), highs = _mm512_set1_pd(high);
    __m512d sums_above = _mm512_setzero_pd(), sums_between = _mm512_setzero_pd();
    for (; at + kDoubles <= size; at += kDoubles) {
        const __m512d x = _mm512_loadu_pd(values + at);
        const __mmask8 over = _mm512_cmp_pd_mask(x, highs, _CMP_GT_OQ);
        const __mmask8 is_above = _mm512_mask_cmp_pd_mask(over, x, mosts, _CMP_LE_OQ);
        const __mmask8 is_between = _mm512_cmp_pd_mask(x, lows, _CMP_GE_OQ) & static_cast<__mmask8>(~over);
        sums_above = _mm512_mask_add_pd(sums_above, is_above, sums_above, x);
        sums_between = _mm512_mask_add_pd(sums_between, is_between, sums_between, x);
        // To a register first: compressing into memory takes a hundred cycles on some CPUs.
        const int64_t to = parts.between.count < capacity ? parts.between.count : capacity;
        _mm512_storeu_pd(between + to, _mm512_maskz_compress_pd(is_between, x));
        parts.above.count += __builtin_popcount(is_above);
        parts.between.count += __builtin_popcount(is_between);
    }
    parts.above.sum = sum((F64)sums_above);
    parts.between.sum = sum((F64)sums_between);
#endif
    for (; at < size; ++at) {
        const double x = values[at];
        const bool is_above = x > high && x <= most, is_between = x >= low && x <= high;
        parts.above.sum += is_above ? x : 0;
        parts.between.sum += is_between ? x : 0;
        between[parts.between.count < capacity ? parts.between.count : capacity] = x;
        parts.above.count += is_above;
        parts.between.count += is_between;
    }
    return parts;
}

// Where the sum of the largest of `values`, which are from 0 to 1 and add up to `total`, reaches `share`.
// `buffer` has room for `capacity` doubles, some thousands at least; with twice as many as there are values it
// is fastest.
inline Cut find_cut(const double* values, int64_t size, double total, double share, double* buffer,
                    int64_t capacity) {
    // The end of the nucleus is a value from `low` to `high`; `inside` are those, `above` adds up the larger ones.
    double low = 0, high = 1, above = 0;
    Sum inside{total, size};
    alignas(64) double sample[kFew + kPadding];
    bool misled = false;  // by the last sample
    while (inside.count > kFew && low < high) {
        double lower = low, upper = high;
        if (!misled) guess(values, size, low, high, (share - above) / inside.sum, sample, lower, upper);
        if (lower <= low && upper >= high) upper = middle_of(low, high);

        const int64_t room = capacity - 2 * kDoubles;
        const Parts parts = partition(values, size, high, lower, upper, buffer, room);
        const int64_t before = inside.count;
        if (above + parts.above.sum >= share) {
            low = of_bits(bits_of(upper) + 1);
            inside = parts.above;
        } else if (above + parts.above.sum + parts.between.sum < share && lower > low) {
            above += parts.above.sum + parts.between.sum;
            inside.sum -= parts.above.sum + parts.between.sum;
            inside.count -= parts.above.count + parts.between.count;
            high = of_bits(bits_of(lower) - 1);
        } else {
            above += parts.above.sum;
            inside = parts.between;
            low = lower, high = upper;
            if (inside.count <= room) {
                values = buffer, size = inside.count;
                buffer += size, capacity -= size;
            }
        }
        misled = inside.count > before / 4 * 3;
    }
    Bracket bracket{low, of_bits(bits_of(high) + 1), inside, {0, 0}};
    if (low < high) {
        const int64_t few = partition(values, size, high, low, high, sample, kFew).between.count;
        for (int64_t i = 0; i < kPadding; ++i) sample[few + i] = 0;
        bracket = bisect(sample, few, bracket, 1, [=](Sum found) { return above + found.sum >= share; });
        low = 0;
        for (int64_t i = 0; i < few; ++i) low = sample[i] < bracket.high && sample[i] > low ? sample[i] : low;
    }
    // What is left in the bracket are equal values.
    const int64_t equal = bracket.at_low.count - bracket.at_high.count;
    const double kept = __builtin_ceil((share - above - bracket.at_high.sum) / low);
    return {low, equal, kept < 1 ? 1 : kept < static_cast<double>(equal) ? static_cast<int64_t>(kept) : equal};
}

}  // namespace ozone::OZONE_ISA
