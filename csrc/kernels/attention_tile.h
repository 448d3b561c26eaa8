// The products of attention: queries with keys, probabilities with values, from tiles of 16 positions.
//
// A form says what is multiplied. `Pairs` are pairs of bfloat16 (AVX-512): keys and values come as the cache has
// them, or are decoded to pairs from 8 bits, exactly; queries and probabilities are rounded to bfloat16. `Floats`
// are float32, to which anything else is decoded. Sums are float32 and in the same order however many rows
// are computed together.
#pragma once

#include "kernels/kv_tile.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

// Vectors of columns or positions that a product keeps beside each other; with six rows they fill the registers.
#if defined(__AVX512F__)
inline constexpr int kWide = 4;
#else
inline constexpr int kWide = 2;
#endif
inline constexpr int kRows = 6;
// Vectors of 16 lanes' worth of positions.
inline constexpr int kSplit = 16 / kLanes;
// Tiles of keys that are multiplied together.
inline constexpr int kKeyTiles = kWide / kSplit;
// Tiles by which reading runs ahead: as many as hide the latency of memory.
inline constexpr int kAhead = 4;

// Into the second-level cache: more reads of memory can be under way there than in the first.
OZONE_INLINE void prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

struct Floats {
    using Element = float;  // of tiles
    using Scalar = float;   // of queries and probabilities: what one step of a product takes
    using Vector = F32;
    static constexpr int kPack = 1;

    static OZONE_INLINE Vector load(const float* from) { return OZONE_ISA::load(from); }
    static OZONE_INLINE Vector broadcast(float x) { return splat(x); }
    static OZONE_INLINE F32 dot(F32 sum, Vector a, Vector b) { return fma(a, b, sum); }
    static OZONE_INLINE void store(float* to, F32 x) { OZONE_ISA::store(to, x); }
};

#if defined(__AVX512BF16__)
struct Pairs {
    using Element = bf16;
    using Scalar = uint32_t;
    using Vector = __m512bh;
    static constexpr int kPack = 2;

    static OZONE_INLINE Vector load(const bf16* from) { return (__m512bh)_mm512_loadu_si512(from); }
    static OZONE_INLINE Vector broadcast(uint32_t x) { return (__m512bh)_mm512_set1_epi32(static_cast<int>(x)); }
    static OZONE_INLINE F32 dot(F32 sum, Vector a, Vector b) { return (F32)_mm512_dpbf16_ps((__m512)sum, a, b); }
    static OZONE_INLINE void store(bf16* to, F32 x) { OZONE_ISA::store(to, x); }
};
#endif

// out[r][position] = factors[position] * sum over steps of q[step][r] . keys: R rows by `Tiles` tiles.
// `q` is packed by steps; rows of `out` are `stride` apart. Reads `keys[kAhead]` and on in advance.
template <typename Form, int R, int Tiles>
void scores(float* out, int64_t stride, const typename Form::Scalar* q, const typename Form::Element* const* keys,
            int64_t steps, const float* factors) {
    constexpr int kVectors = Tiles * kSplit;
    F32 sums[R][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sums[r][v] = splat(0);
    for (int64_t step = 0; step < steps; ++step) {
        typename Form::Vector k[kVectors];
        const int64_t at = step * kTilePositions * Form::kPack;
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
            k[v] = Form::load(keys[v / kSplit] + at + v % kSplit * kLanes * Form::kPack);
            if (v % kSplit == 0) prefetch(keys[v / kSplit + kAhead] + at);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const typename Form::Vector one = Form::broadcast(q[step * R + r]);
#pragma GCC unroll 8
            for (int v = 0; v < kVectors; ++v) sums[r][v] = Form::dot(sums[r][v], one, k[v]);
        }
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
        const F32 factor = load(factors + v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) store(out + r * stride + v * kLanes, sums[r][v] * factor);
    }
}

// out[r][column] = keep[r] * out[r][column] + sum over positions of p[r][position] * values: R rows by V vectors
// of columns. Rows of `p` and `out` are `p_stride` and `out_stride` apart. Reads `values[tiles]` and on in advance.
template <typename Form, int R, int V>
void gather(float* out, int64_t out_stride, const float* keep, const typename Form::Scalar* p, int64_t p_stride,
            const typename Form::Element* const* values, int64_t tiles, int64_t column, int64_t columns) {
    constexpr int kSteps = kTilePositions / Form::kPack;
    F32 sums[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = splat(0);
    for (int64_t tile = 0; tile < tiles; ++tile) {
        const typename Form::Element* row = values[tile] + column * Form::kPack;
        const typename Form::Element* next = values[tile + kAhead] + column * Form::kPack;
        for (int step = 0; step < kSteps; ++step) {
            typename Form::Vector x[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                x[v] = Form::load(row + v * kLanes * Form::kPack);
                if (v % kSplit == 0) prefetch(next + v * kLanes * Form::kPack);
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const typename Form::Vector one = Form::broadcast(p[r * p_stride + step]);
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) sums[r][v] = Form::dot(sums[r][v], one, x[v]);
            }
            row += columns * Form::kPack;
            next += columns * Form::kPack;
        }
        p += kSteps;
    }
    out += column;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        const F32 factor = splat(keep[r]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            float* to = out + r * out_stride + v * kLanes;
            store(to, fma(load(to), factor, sums[r][v]));
        }
    }
}

// Calls `body(integral constant R)` for the number of rows, 1 to kRows.
template <int R>
struct Rows {
    static constexpr int value = R;
};
template <typename Body>
OZONE_INLINE void with_rows(int64_t rows, Body body) {
    switch (rows) {
        case 1: return body(Rows<1>{});
        case 2: return body(Rows<2>{});
        case 3: return body(Rows<3>{});
        case 4: return body(Rows<4>{});
        case 5: return body(Rows<5>{});
        default: return body(Rows<6>{});
    }
}

// ---- tiles in other types, decoded ----

// Steps of 16 lanes with kPack<C> neighbours in each become steps of Form::kPack.
template <typename C>
OZONE_INLINE void decode_steps(float* out, const C* step, int64_t stride) {
    typedef uint32_t U32 __attribute__((vector_size(kLanes * 4)));
    for (int half = 0; half < kSplit; ++half) {
        float* to = out + half * kLanes;
        if constexpr (kPack<C> == 1) {
            store(to, load(step + half * kLanes));
        } else {
            U32 lanes;
            std::memcpy(&lanes, step + half * kLanes * kPack<C>, sizeof lanes);
            if constexpr (kPack<C> == 2) {
                store(to, (F32)(lanes << 16));
                store(to + stride, (F32)(lanes & 0xffff0000u));
            } else {
                for (int i = 0; i < 4; ++i) {
                    const I32 code = (I32)(lanes << (24 - 8 * i)) >> 24;
                    F32 value;
                    if constexpr (__is_same(C, e4m3)) {
                        value = e4m3_value(code);
                    } else {
                        value = __builtin_convertvector(code, F32);
                    }
                    store(to + i * stride, value);
                }
            }
        }
    }
}

// A tile of keys: [columns / pack][16][pack] -> [columns][16].
template <typename C>
OZONE_INLINE void decode_keys(float* out, const C* tile, const C* ahead, int64_t columns) {
    for (int64_t i = 0; i < columns; i += kPack<C>) {
        prefetch(ahead + i * kTilePositions);
        decode_steps(out + i * kTilePositions, tile + i * kTilePositions, kTilePositions);
    }
}

// A tile of values: [16 / pack][columns][pack] -> [16][columns].
template <typename C>
OZONE_INLINE void decode_values(float* out, const C* tile, const C* ahead, int64_t columns) {
    for (int64_t position = 0; position < kTilePositions; position += kPack<C>)
        for (int64_t column = 0; column < columns; column += 16) {
            const int64_t at = position * columns + column * kPack<C>;
            prefetch(ahead + at);
            decode_steps(out + position * columns + column, tile + at, columns);
        }
}

#if defined(__AVX512BF16__)
// The two bytes of the bfloat16 that an 8-bit magnitude is, exactly.
struct ByteTables {
    uint8_t low[128], high[128];
};

template <typename C>
constexpr ByteTables byte_tables() {
    ByteTables tables{};
    for (int code = 0; code < 128; ++code) {
        // mantissa * 2^exponent
        int mantissa = code, exponent = 0;
        if (__is_same(C, e4m3)) {
            mantissa = code >= 8 ? 8 + code % 8 : code;
            exponent = (code >= 8 ? code / 8 : 1) - 10;
        }
        int bits = 0;
        if (mantissa) {
            int top = 0;
            while (mantissa >> (top + 1)) ++top;
            bits = (exponent + top + 127) << 7 | ((mantissa << (7 - top)) & 0x7f);
        }
        if (__is_same(C, e4m3) && code == 127) bits = 0x7fc0;  // NaN
        tables.low[code] = static_cast<uint8_t>(bits & 0xff);
        tables.high[code] = static_cast<uint8_t>(bits >> 8);
    }
    return tables;
}

template <typename C>
inline constexpr ByteTables kByteTables = byte_tables<C>();

// Of each four neighbours the first two go to the lower half of their 128 bits, the others to the upper, where
// interleaving the two bytes makes vectors of pairs of them.
struct ByteOrder {
    uint8_t from[64];
};
constexpr ByteOrder byte_order() {
    ByteOrder order{};
    for (int i = 0; i < 64; ++i) {
        const int quarter = i / 16, upper = i % 16 / 8, lane = i % 8 / 2;
        order.from[i] = static_cast<uint8_t>(quarter * 16 + lane * 4 + upper * 2 + i % 2);
    }
    return order;
}
inline constexpr ByteOrder kByteOrder = byte_order();

// 8-bit codes to bfloat16.
template <typename C>
struct PairDecoder {
    __m512i order = _mm512_loadu_si512(kByteOrder.from);
    __m512i low[2] = {_mm512_loadu_si512(kByteTables<C>.low), _mm512_loadu_si512(kByteTables<C>.low + 64)};
    __m512i high[2] = {_mm512_loadu_si512(kByteTables<C>.high), _mm512_loadu_si512(kByteTables<C>.high + 64)};

    // 16 lanes of four -> 16 lanes of the first two, 16 lanes of the last two.
    OZONE_INLINE void operator()(bf16* first, bf16* second, const C* codes) const {
        const __m512i x = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(codes));
        const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
        // vpermi2b looks at seven bits of each index: the magnitude.
        const __m512i index = __is_same(C, e4m3) ? x : _mm512_abs_epi8(x);
        const __m512i lower = _mm512_permutex2var_epi8(low[0], index, low[1]);
        const __m512i upper = _mm512_permutex2var_epi8(high[0], index, high[1]);
        const __m512i signed_upper = _mm512_ternarylogic_epi32(upper, x, sign, 0xf8);  // upper | (x & sign)
        _mm512_storeu_si512(first, _mm512_unpacklo_epi8(lower, signed_upper));
        _mm512_storeu_si512(second, _mm512_unpackhi_epi8(lower, signed_upper));
    }
};

template <typename C>
OZONE_INLINE void decode_keys(bf16* out, const C* tile, const C* ahead, int64_t columns) {
    const PairDecoder<C> decode;
    for (int64_t i = 0; i < columns; i += 4) {
        const int64_t at = i * kTilePositions;
        prefetch(ahead + at);
        decode(out + at, out + at + 2 * kTilePositions, tile + at);
    }
}

template <typename C>
OZONE_INLINE void decode_values(bf16* out, const C* tile, const C* ahead, int64_t columns) {
    const PairDecoder<C> decode;
    for (int64_t position = 0; position < kTilePositions; position += 4)
        for (int64_t column = 0; column < columns; column += 16) {
            const int64_t at = position * columns + column * 4;
            prefetch(ahead + at);
            bf16* pairs = out + position * columns + column * 2;
            decode(pairs, pairs + 2 * columns, tile + at);
        }
}
#endif

}  // namespace ozone::OZONE_ISA
