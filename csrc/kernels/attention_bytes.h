// The products of one new token with an 8-bit cache (AVX-512), which take 64 codes of a tile at once as they lie:
// four neighbours in each of 16 lanes. Reading is what such a token waits for, so little may be done to a code.
//
// `Digits`, of int8: queries and weights are 16-bit integers in two 8-bit digits, so that instructions for bytes
// multiply codes as they are, and sums are exact until they leave an instruction's 32 bits. `Quads`, of e4m3: bytes
// become bfloat16 by tables, in the order in which interleaving leaves them; sums of two neighbours lie side by side
// and are joined at the end.
#pragma once

#include "kernels/attention_tile.h"

namespace ozone::OZONE_ISA {

// What a new token that is alone multiplies a cache of type C as.
template <typename C>
struct DecodeFormOf : FormOf<C> {};

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)

// ---- forms: `Scalar` is what 64 codes are multiplied with, `Row` what else there is to know about a row ----

struct Digits {
    using Code = int8_t;
    using Element = uint16_t;
    using Scalar = uint64_t;  // four numbers: their high digits, then their low
    using Line = __m512i;
    struct One {
        __m512i high, low;
    };
    struct Sum {
        __m512i high, low;
    };
    struct Row {
        int32_t high, low;  // what the offset of keys adds to sums of a row, negative
        float factor;       // of the row's integers
    };
    static constexpr int kPack = 4;
    static constexpr int kRows = 6;
    static constexpr bool kTakesCodes = true;
    static constexpr int kWide = 2;
    static constexpr int64_t kStepKeys = 256;
    static constexpr float kMostOfQuery = 127 * 256, kMostOfWeight = 65535;

    static OZONE_INLINE One broadcast(const Scalar& x) {
        const auto digits = reinterpret_cast<const int32_t*>(&x);
        return {_mm512_set1_epi32(digits[0]), _mm512_set1_epi32(digits[1])};
    }

    // Codes plus 128, which are unsigned, by signed digits.
    static OZONE_INLINE Line read_keys(const int8_t* from) {
        return _mm512_xor_si512(_mm512_loadu_si512(from), _mm512_set1_epi8(static_cast<char>(0x80)));
    }
    static OZONE_INLINE Sum score_from(const Row& row) {
        return {_mm512_set1_epi32(row.high), _mm512_set1_epi32(row.low)};
    }
    static OZONE_INLINE void score(Sum& sum, const One& query, Line keys) {
        sum.high = _mm512_dpbusd_epi32(sum.high, keys, query.high);
        sum.low = _mm512_dpbusd_epi32(sum.low, keys, query.low);
    }

    static OZONE_INLINE Line read_values(const int8_t* from) { return _mm512_loadu_si512(from); }
    static OZONE_INLINE Sum zero() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
    static OZONE_INLINE void weigh(Sum& sum, const One& weight, Line values) {
        sum.high = _mm512_dpbusd_epi32(sum.high, weight.high, values);
        sum.low = _mm512_dpbusd_epi32(sum.low, weight.low, values);
    }

    static OZONE_INLINE F32 scaled(F32 total, const Row& row) { return total * row.factor; }
    static OZONE_INLINE F32 total(const Sum& sum) {
        return fma((F32)_mm512_cvtepi32_ps(sum.high), splat(256), (F32)_mm512_cvtepi32_ps(sum.low));
    }

    // kLanes integers from 0 to kMostOfWeight.
    static OZONE_INLINE void store(Element* to, F32 x) { store_digits(to, _mm512_cvtps_epi32((__m512)x)); }

    // Makes integers of a row of queries, of which `lanes(i)` are the i-th and those behind it.
    template <typename Lanes>
    static OZONE_INLINE Row pack_row(Element* to, int64_t count, Lanes lanes) {
        F32 most = splat(0), none = splat(0);
        for (int64_t i = 0; i < count; i += kLanes) {
            const F32 x = lanes(i);
            most = max(abs(x), most);
            none = fma(x, splat(0), none);  // zero, or NaN where a query is not finite: integers do not tell
        }
        const float span = largest(most), inverse = span > 0 ? kMostOfQuery / span : 0;
        // Both digits are signed: one more than what is left of 128 more, and what that leaves less 128.
        const __m512i half = _mm512_set1_epi32(128);
        __m512i high = _mm512_setzero_si512(), all = high;
        for (int64_t i = 0; i < count; i += kLanes) {
            const __m512i number = _mm512_cvtps_epi32((__m512)(lanes(i) * inverse));
            const __m512i shifted = _mm512_add_epi32(number, half);
            store_digits(to + i, shifted, _mm256_set1_epi64x(static_cast<int64_t>(0x8080808000000000)));
            high = _mm512_add_epi32(high, _mm512_srai_epi32(shifted, 8));
            all = _mm512_add_epi32(all, number);
        }
        const int32_t highs = _mm512_reduce_add_epi32(high), lows = _mm512_reduce_add_epi32(all) - 256 * highs;
        return {-128 * highs, -128 * lows, span / kMostOfQuery + sum(none)};
    }
    // Makes factors of weights out of scales of values, and returns what weighed values have to be multiplied with.
    static OZONE_INLINE float scale_weights(float* scales, int64_t count) {
        F32 most = splat(0), none = splat(0);
        for (int64_t i = 0; i < count; i += kLanes) {
            const F32 x = OZONE_ISA::load(scales + i);
            most = max(x, most);
            none = fma(x, splat(0), none);
        }
        const float span = largest(most), inverse = span > 0 ? kMostOfWeight / span : 0;
        for (int64_t i = 0; i < count; i += kLanes)
            OZONE_ISA::store(scales + i, OZONE_ISA::load(scales + i) * inverse);
        return span / kMostOfWeight + sum(none);
    }

  private:
    // The second bytes of four numbers, then their first.
    static OZONE_INLINE void store_digits(Element* to, __m512i numbers, __m256i flipped = _mm256_setzero_si256()) {
        const __m512i order = _mm512_castsi256_si512(
            _mm256_setr_epi8(1, 5, 9, 13, 0, 4, 8, 12, 17, 21, 25, 29, 16, 20, 24, 28,  //
                             33, 37, 41, 45, 32, 36, 40, 44, 49, 53, 57, 61, 48, 52, 56, 60));
        const __m256i digits = _mm512_castsi512_si256(_mm512_permutexvar_epi8(order, numbers));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_xor_si256(digits, flipped));
    }
};

struct Quads {
    using Code = e4m3;
    using Element = bf16;
    using Scalar = uint64_t;  // four numbers
    struct Line {
        __m512bh low, high;  // of each 128 bits of codes the first eight, and the others
    };
    using One = __m512bh;
    struct Sum {
        __m512 low, high;
    };
    struct Row {};
    static constexpr int kPack = 4;
    static constexpr int kRows = 5;
    static constexpr bool kTakesCodes = true;
    static constexpr int kWide = 2;
    static constexpr int64_t kStepKeys = 256;

    static OZONE_INLINE One broadcast(const Scalar& x) {
        return (__m512bh)_mm512_set1_epi64(static_cast<int64_t>(x));
    }
    static OZONE_INLINE Line read(const e4m3* from) {
        const auto table = [](const uint8_t (&bytes)[128], __m512i index) {
            return _mm512_permutex2var_epi8(_mm512_loadu_si512(bytes), index, _mm512_loadu_si512(bytes + 64));
        };
        __m512i x = _mm512_loadu_si512(from);
        __asm__("" : "+v"(x));  // or g++ reads it three times, since looking up destroys an index
        const __m512i low = table(kByteTables<e4m3>.low, x), magnitude = table(kByteTables<e4m3>.high, x);
        const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
        const __m512i high = _mm512_ternarylogic_epi32(magnitude, x, sign, 0xf8);  // magnitude | (x & sign)
        return {(__m512bh)_mm512_unpacklo_epi8(low, high), (__m512bh)_mm512_unpackhi_epi8(low, high)};
    }
    static OZONE_INLINE Line read_keys(const e4m3* from) { return read(from); }
    static OZONE_INLINE Line read_values(const e4m3* from) { return read(from); }
    static OZONE_INLINE Sum zero() { return {_mm512_setzero_ps(), _mm512_setzero_ps()}; }
    static OZONE_INLINE Sum score_from(const Row&) { return zero(); }
    static OZONE_INLINE void score(Sum& sum, const One& one, const Line& line) {
        sum.low = _mm512_dpbf16_ps(sum.low, one, line.low);
        sum.high = _mm512_dpbf16_ps(sum.high, one, line.high);
    }
    static OZONE_INLINE void weigh(Sum& sum, const One& one, const Line& line) { score(sum, one, line); }

    static OZONE_INLINE F32 scaled(F32 total, const Row&) { return total; }
    static OZONE_INLINE F32 total(const Sum& sum) {
        return (F32)_mm512_shuffle_ps(sum.low, sum.high, 0x88) + (F32)_mm512_shuffle_ps(sum.low, sum.high, 0xdd);
    }

    static OZONE_INLINE void store(Element* to, F32 x) { OZONE_ISA::store(to, x); }
    template <typename Lanes>
    static OZONE_INLINE Row pack_row(Element* to, int64_t count, Lanes lanes) {
        for (int64_t i = 0; i < count; i += kLanes) store(to + i, lanes(i));
        return {};
    }
};

template <>
struct DecodeFormOf<int8_t> {
    using type = Digits;
};
template <>
struct DecodeFormOf<e4m3> {
    using type = Quads;
};

// ---- products ----

// out[r][lane] = factors[lane] * q[r] . keys, for R rows and V tiles of keys. `q` is packed by steps; rows of `out`
// are `stride` apart. `keys` has kAhead tiles more.
template <typename Form, int R, int V>
void score_codes(float* out, int64_t stride, const typename Form::Scalar* q, const typename Form::Row* rows,
                 const typename Form::Code* const* keys, int64_t steps, const float* factors) {
    typename Form::Sum sums[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = Form::score_from(rows[r]);
    for (int64_t step = 0; step < steps; ++step) {
        typename Form::Line k[V];
        const int64_t at = step * Form::kPack * kTilePositions;
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            k[v] = Form::read_keys(keys[v] + at);
            prefetch(keys + v, at);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const typename Form::One one = Form::broadcast(q[step * R + r]);
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) Form::score(sums[r][v], one, k[v]);
        }
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
        const F32 factor = load(factors + v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
            store(out + r * stride + v * kLanes, Form::scaled(Form::total(sums[r][v]), rows[r]) * factor);
    }
}

// out[r][column] = keep[r] * out[r][column] + factor * sum over positions of p[r][position] * values, for R rows and
// V vectors of columns. Rows of `p` and `out` are `p_stride` and `out_stride` apart. `values` has kAhead tiles more.
template <typename Form, int R, int V>
void gather_codes(float* out, int64_t out_stride, const float* keep, const typename Form::Scalar* p, int64_t p_stride,
                  const typename Form::Code* const* values, int64_t tiles, int64_t column, int64_t columns,
                  float factor) {
    constexpr int kTileSteps = kTilePositions / Form::kPack;
    typename Form::Sum sums[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = Form::zero();
    for (int64_t tile = 0; tile < tiles; ++tile) {
        int64_t at = column * Form::kPack;
        for (int step = 0; step < kTileSteps; ++step) {
            typename Form::Line x[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                x[v] = Form::read_values(values[tile] + at + v * kLanes * Form::kPack);
                prefetch(values + tile, at + v * kLanes * Form::kPack);
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const typename Form::One one = Form::broadcast(p[r * p_stride + step]);
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) Form::weigh(sums[r][v], one, x[v]);
            }
            at += columns * Form::kPack;
        }
        p += kTileSteps;
    }
    out += column;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            float* to = out + r * out_stride + v * kLanes;
            store(to, fma(load(to), splat(keep[r]), Form::total(sums[r][v]) * factor));
        }
}

#endif

}  // namespace ozone::OZONE_ISA
