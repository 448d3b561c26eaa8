// The products of attention with an int8 cache, exactly, in integers (AVX-512 VNNI).
//
// A query is a scale and 16-bit integers, each of two signed bytes, q = 256 high + low; so are the probabilities of a
// row and step times the scales of their values, in two unsigned bytes, since none is negative. Codes of the cache are
// multiplied as they lie there, four neighbours in an instruction, once for each byte; nothing is decoded. The
// instruction takes unsigned by signed: keys are made unsigned by adding 128, which sums begin 128 times below zero for.
//
// Sums are exact, so that no order or grouping of rows changes them: `high` and `low` stay within 24 bits, for which
// float32 is exact, as long as a head has no more than 1,032 columns, and within 32 up to 65,000; of values a step
// has 128 positions.
#pragma once

#if defined(__AVX512VNNI__)

#include "kernels/attention_products.h"
#include "kernels/dot8.h"

namespace ozone::OZONE_ISA {

// Largest magnitudes: both bytes are largest then.
inline constexpr float kLargestQuery = 127 * 256 + 127;
inline constexpr float kLargestProbability = 255 * 256 + 255;
// What is smaller throughout is zero: its inverse may not be a float.
inline constexpr float kNothing = 0x1p-100f;

// What one step of a product takes: of four numbers the high bytes, then the low ones.
struct Digits {
    int32_t high, low;
};
static_assert(kLanes == 16 && kSplit == 1);

// Stores the low 16 bits of each number, as digits.
OZONE_INLINE void store_digits(Digits* to, I32 x) {
    const __m128i order = _mm_setr_epi8(1, 3, 5, 7, 0, 2, 4, 6, 9, 11, 13, 15, 8, 10, 12, 14);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_shuffle_epi8((__m256i)low16(x), _mm256_broadcastsi128_si256(order)));
}

OZONE_INLINE I32 rounded(F32 x) { return (I32)_mm512_cvtps_epi32((__m512)x); }

// Of numbers that are not negative or NaN: NaN if one is.
OZONE_INLINE F32 larger(F32 a, F32 b) { return (F32)_mm512_max_epu32((__m512i)a, (__m512i)b); }
OZONE_INLINE float largest_or_nan(F32 x) {
    const uint32_t bits = _mm512_reduce_max_epu32((__m512i)x);
    float most;
    std::memcpy(&most, &bits, sizeof most);
    return most;
}

// 256 high + low.
OZONE_INLINE F32 joined(I32 high, I32 low) { return fma(to_floats(high), splat(256), to_floats(low)); }

// Rows of 16 columns that are summed beside each other, for R rows: two sums each have room in 32 registers.
template <int R>
inline constexpr int kWideDigits = R <= 3 ? 4 : 2;

template <>
class Products<Digits, int8_t> {
  public:
    Products(Room& room, int64_t rows, int64_t columns)
        : rows_(rows), columns_(columns), probabilities_(room.take<Digits>(kBlockRows * kStepKeys / 4)),
          queries_(room.take<Digits>(kBlockRows * columns / 4)) {}

    template <typename T>
    void set_query(int64_t row, const T* q, int64_t head_dim) {
        const auto each_vector = [&](auto body) {
            int64_t i = 0;
            for (; i + kLanes <= head_dim; i += kLanes) body(i, load(q + i));
            if (i < columns_) body(i, load_some(q + i, head_dim - i));
        };
        F32 most = splat(0);
        each_vector([&](int64_t, F32 x) { most = larger(abs(x), most); });
        const float magnitude = largest_or_nan(most);
        // Of an infinite one the scores are not numbers: it is in all of them.
        query_scales_[row] = magnitude / kLargestQuery + (magnitude - magnitude);
        const F32 inverse = splat(magnitude >= kNothing ? kLargestQuery / magnitude : 0);
        I32 high = {}, low = {};
        each_vector([&](int64_t i, F32 x) {
            // Adding 128 rounds to the nearest multiple of 256, and the low byte is then by so much too large.
            const I32 shifted = rounded(x * inverse) + 128;
            high += shifted >> 8;
            low += (shifted & 255) - 128;
            store_digits(queries_ + (row * columns_ + i) / 4, shifted ^ 128);
        });
        starts_[row] = {_mm512_reduce_add_epi32((__m512i)high) * -128, _mm512_reduce_add_epi32((__m512i)low) * -128};
    }

    void score(float* scores, const int8_t* const* tiles, int64_t count, const float* factors) const {
        int64_t tile = 0;
        if (rows_ <= 3)
            for (; tile + 4 <= count; tile += 4) score_tiles<4>(scores, tile, tiles, factors);
        for (; tile < count; tile += 2) score_tiles<2>(scores, tile, tiles, factors);  // the last may come later
    }

    class Row {
      public:
        OZONE_INLINE void put(int64_t key, F32 probabilities) {
            most_ = larger(probabilities, most_);
            store(unrounded_ + key, probabilities);
        }
        OZONE_INLINE void done() {
            const float most = largest_or_nan(most_);
            factor_ = most / kLargestProbability;
            const F32 inverse = splat(most >= kNothing ? kLargestProbability / most : 0);
            for (int64_t i = 0; i < keys_; i += kLanes)
                store_digits(to_ + i / 4, rounded(load(unrounded_ + i) * inverse));
        }

      private:
        friend Products;
        Row(Digits* to, float& factor, int64_t keys) : to_(to), factor_(factor), keys_(keys) {}
        Digits* const to_;
        float& factor_;
        const int64_t keys_;
        F32 most_ = splat(0);
        alignas(64) float unrounded_[kStepKeys];
    };
    OZONE_INLINE Row probabilities_of(int64_t row, int64_t keys) {
        return Row(probabilities_ + row * kStepKeys / 4, value_factors_[row], keys);
    }

    // Whatever lies behind the last key is an integer, and zero times that is zero.
    void weigh(float* out, const float* keep, const int8_t* const* tiles, int64_t, int64_t count) const {
        for (int64_t row = 0; row < rows_; row += kRows)
            with_rows(rows_ - row, [&]<int R>(Rows<R>) {
                each_column<kWideDigits<R>>(columns_, [&]<int V>(Vectors<V>, int64_t column) {
                    weigh_columns<R, V>(out, keep, row, column, tiles, count);
                });
            });
    }

  private:
    template <int V>
    OZONE_INLINE void score_tiles(float* scores, int64_t tile, const int8_t* const* tiles,
                                  const float* factors) const {
        for (int64_t row = 0; row < rows_; row += kRows)
            with_rows(rows_ - row, [&]<int R>(Rows<R>) {
                if constexpr (V <= kWideDigits<R>)
                    score_rows<R, V>(scores + row * kStepKeys + tile * kTilePositions, row, tiles + tile,
                                     factors + tile * kTilePositions);
            });
    }

    template <int R, int V>
    void score_rows(float* out, int64_t row, const int8_t* const* tiles, const float* factors) const {
        const Digits* q = queries_ + row * columns_ / 4;
        const int64_t steps = columns_ / 4;
        I32 high[R][V], low[R][V];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                high[r][v] = splat_int(starts_[row + r].high);
                low[r][v] = splat_int(starts_[row + r].low);
            }
        for (int64_t step = 0; step < steps; ++step) {
            const int64_t at = step * 4 * kTilePositions;
            I32 keys[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                keys[v] = load_ints(tiles[v] + at) ^ static_cast<int32_t>(0x80808080);
                prefetch(tiles + v, at);
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const Digits& one = q[r * steps + step];
                const Activations upper{splat_int(one.high)}, lower{splat_int(one.low)};
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) {
                    high[r][v] = dot(high[r][v], keys[v], upper);
                    low[r][v] = dot(low[r][v], keys[v], lower);
                }
            }
        }
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            const F32 factor = load(factors + v * kTilePositions);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
                store(out + r * kStepKeys + v * kTilePositions,
                      joined(high[r][v], low[r][v]) * (factor * query_scales_[row + r]));
        }
    }

    template <int R, int V>
    void weigh_columns(float* out, const float* keep, int64_t row, int64_t column, const int8_t* const* tiles,
                       int64_t count) const {
        const Digits* p = probabilities_ + row * kStepKeys / 4;
        I32 high[R][V] = {}, low[R][V] = {};
        for (int64_t tile = 0; tile < count; ++tile)
#pragma GCC unroll 4
            for (int step = 0; step < kTilePositions / 4; ++step, ++p) {
                const int64_t at = (step * columns_ + column) * 4;
                Activations values[V];
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) {
                    values[v] = {load_ints(tiles[tile] + at + v * 64)};
                    prefetch(tiles + tile, at + v * 64);
                }
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r) {
                    const Digits& one = p[r * kStepKeys / 4];
                    const I32 upper = splat_int(one.high), lower = splat_int(one.low);
#pragma GCC unroll 8
                    for (int v = 0; v < V; ++v) {
                        high[r][v] = dot(high[r][v], upper, values[v]);
                        low[r][v] = dot(low[r][v], lower, values[v]);
                    }
                }
            }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const F32 factor = splat(value_factors_[row + r]), kept = splat(keep[row + r]);
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                float* to = out + (row + r) * columns_ + column + v * kLanes;
                store(to, fma(load(to), kept, joined(high[r][v], low[r][v]) * factor));
            }
        }
    }

    const int64_t rows_, columns_;
    Digits* const probabilities_;  // [kBlockRows][kStepKeys / 4]
    Digits* const queries_;        // [kBlockRows][columns / 4]
    Digits starts_[kBlockRows];    // of sums of products with keys
    float query_scales_[kBlockRows], value_factors_[kBlockRows];
};

template <>
struct FormOf<int8_t> {
    using type = Digits;
};

}  // namespace ozone::OZONE_ISA

#endif
