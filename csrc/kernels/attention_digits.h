// The products of attention with an int8 cache, in integers (AVX-512 VNNI).
//
// A query is a scale and 16-bit integers of two signed bytes each, 256 high + low. So are the probabilities of a row
// and step, times the scales of their values, of two unsigned bytes, since none is negative. Codes of the cache are
// multiplied as they lie there, once by each byte, four neighbours at a time: nothing is decoded. The instruction takes
// unsigned by signed, so keys get 128 more, and sums begin with as much less.
//
// Sums are exact, so that rows may be grouped in any way. They are modulo 2^32, and what they come to fits: of queries
// columns * 32,639 * 128 up to 512 columns (of more, queries have smaller integers), of values 128 * 65,535 * 128.
#pragma once

#if defined(__AVX512VNNI__)

#include "kernels/attention_products.h"
#include "kernels/dot8.h"

namespace ozone::OZONE_ISA {

// The form of an int8 cache; and what one step of its products takes: the high bytes of four numbers, and the low ones.
struct Digits {
    int32_t high, low;
};
template <>
struct FormOf<int8_t> {
    using type = Digits;
};
static_assert(kLanes == kTilePositions);

// Largest integers: both bytes are largest.
inline constexpr float kLargestQuery = 127 * 256 + 127;
inline constexpr float kLargestProbability = 255 * 256 + 255;
// Rows of nothing larger are zero: the inverse of that may not be a float.
inline constexpr float kNothing = 0x1p-100f;

// Stores the low 16 bits of each number, as digits.
OZONE_INLINE void store_digits(Digits* to, I32 x) {
    const __m128i order = _mm_setr_epi8(1, 3, 5, 7, 0, 2, 4, 6, 9, 11, 13, 15, 8, 10, 12, 14);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_shuffle_epi8((__m256i)low16(x), _mm256_broadcastsi128_si256(order)));
}

// The same of two vectors of numbers from 0 to 2^16 - 1.
struct DigitOrder {
    uint8_t from[64];
};
constexpr DigitOrder digit_order() {
    // `packus` leaves words of the first vector in the lower halves of 128 bits, of the second in the upper ones.
    DigitOrder order{};
    for (int i = 0; i < 64; ++i) {
        const int number = i / 8 * 4 + i % 4, high = i % 8 < 4;
        const int word = number % 16 / 4 * 8 + number / 16 * 4 + number % 4;
        order.from[i] = static_cast<uint8_t>(word * 2 + high);
    }
    return order;
}
inline constexpr DigitOrder kDigitOrder = digit_order();
OZONE_INLINE void store_digits(Digits* to, I32 x, I32 y) {
    const __m512i words = _mm512_packus_epi32((__m512i)x, (__m512i)y);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi8(_mm512_loadu_si512(kDigitOrder.from), words));
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
OZONE_INLINE F32 joined(I32 high, I32 low) { return to_floats((I32)(((U32)high << 8) + (U32)low)); }

// Vectors that R rows sum beside each other, two sums for each. (Four for three rows have room in the registers too,
// and take a twentieth longer.)
template <int R>
inline constexpr int kWideDigits = R <= 2 ? 4 : 2;

template <>
class Products<Digits, int8_t> {
  public:
    Products(Room& room, int64_t rows, int64_t columns)
        : rows_(rows), columns_(columns), probabilities_(room.take<Digits>(kBlockRows * kStepKeys / 4)),
          queries_(room.take<Digits>(kBlockRows * columns / 4)), mosts_(room.take<float>(kBlockRows * kLanes)),
          largest_query_(columns <= 512 ? kLargestQuery : 0x1p24f / columns - 1) {}

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
        // An infinite number is in all scores, and makes none of them a number that a softmax could use.
        query_scales_[row] = magnitude / largest_query_ + (magnitude - magnitude);
        const F32 inverse = splat(magnitude >= kNothing ? largest_query_ / magnitude : 0);
        I32 total = {};
        each_vector([&](int64_t i, F32 x) {
            const I32 q = rounded(x * inverse);
            total += q;
            // Adding 128 makes the high byte that of the nearest multiple of 256, and the low one too large by 128.
            store_digits(queries_ + (row * columns_ + i) / 4, (q + 128) ^ 128);
        });
        starts_[row] = static_cast<int32_t>(_mm512_reduce_add_epi32((__m512i)total) * -128u);
    }

    void score(float* scores, const int8_t* const* tiles, int64_t count, const float* factors) const {
        int64_t tile = 0;
        if (rows_ <= 2)
            for (; tile + 4 <= count; tile += 4) score_tiles<4>(scores, tile, tiles, factors);
        for (; tile < count; tile += 2) score_tiles<2>(scores, tile, tiles, factors);  // or a tile that comes later
    }

    class Row {
      public:
        OZONE_INLINE void put(int64_t key, F32 probabilities) {
            most_ = larger(probabilities, most_);
            store(unrounded_ + key, probabilities);
        }
        OZONE_INLINE void done() { store(mosts_, most_); }

      private:
        friend Products;
        Row(float* unrounded, float* mosts) : unrounded_(unrounded), mosts_(mosts) {}
        float* const unrounded_;
        float* const mosts_;
        F32 most_ = splat(0);
    };
    OZONE_INLINE Row probabilities_of(int64_t row, float* scores) { return Row(scores, mosts_ + row * kLanes); }

    // Of all rows at once: to find the largest of one takes long, of several hardly longer.
    void round_probabilities(const float* unrounded, int64_t count) {
        float inverses[kBlockRows];
        for (int64_t row = 0; row < rows_; ++row) value_factors_[row] = largest_or_nan(load(mosts_ + row * kLanes));
        for (int64_t row = 0; row < rows_; row += kLanes) {
            const F32 most = load(value_factors_ + row);
            store(inverses + row, select(most < kNothing, splat(0), kLargestProbability / most));
            store(value_factors_ + row, most * (1 / kLargestProbability));
        }
        for (int64_t row = 0; row < rows_; ++row) {
            const F32 inverse = splat(inverses[row]);
            for (int64_t i = 0; i < count * kTilePositions; i += 2 * kLanes) {  // and of a tile that nobody reads
                const float* from = unrounded + row * kStepKeys + i;
                store_digits(probabilities_ + (row * kStepKeys + i) / 4, rounded(load(from) * inverse),
                             rounded(load(from + kLanes) * inverse));
            }
        }
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
                if constexpr (V <= kWideDigits<R>)  // which it is, and others need not be compiled
                    score_rows<R, V>(scores + row * kStepKeys + tile * kTilePositions, row, tiles + tile,
                                     factors + tile * kTilePositions);
            });
    }

    template <int R, int V>
    void score_rows(float* out, int64_t row, const int8_t* const* tiles, const float* factors) const {
        const Digits* q = queries_ + row * columns_ / 4;
        const int64_t steps = columns_ / 4;
        I32 high[R][V] = {}, low[R][V];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) low[r][v] = splat_int(starts_[row + r]);
        // What follows the first tile is asked for first, then what follows the next: few addresses at a time.
        for (int64_t step = 0, part = 0; part < V; ++part)
            for (int64_t asked = 0; asked < steps * 64; asked += V * 64, ++step) {
                I32 keys[V];
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) {
                    keys[v] = load_ints(tiles[v] + step * 64) ^ static_cast<int32_t>(0x80808080);
                    prefetch(tiles + part, asked + v * 64);
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
    float* const mosts_;           // [kBlockRows][kLanes]: of probabilities times scales
    const float largest_query_;
    int32_t starts_[kBlockRows];  // of sums of products with keys
    float query_scales_[kBlockRows], value_factors_[kBlockRows];
};

}  // namespace ozone::OZONE_ISA

#endif
