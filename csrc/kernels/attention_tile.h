// The products of attention: queries with keys, probabilities with values, from tiles of 16 positions.
//
// A form says what is multiplied. `Pairs` are pairs of bfloat16 (AVX-512): queries and probabilities are rounded
// to bfloat16. `Floats` are float32. A reader makes vectors of a form out of tiles of a cache type: of its own
// type by loading them, of others by decoding them, exactly. Where many rows share a tile it is decoded once, to a
// tile of the form's own type. `Digits` (attention_digits.h) are integers, and take int8 as it lies in the cache.
//
// Sums are float32 and in the same order however many rows are computed together, and wherever tiles are decoded.
#pragma once

#include "kernels/kv_tile.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

// Rows that a product keeps in registers.
inline constexpr int kRows = 6;
// Vectors that the 16 lanes of a tile are.
inline constexpr int kSplit = 16 / kLanes;
// Tiles by which reading runs ahead, and the most of them: of 8-bit types twice as many, which are as many bytes. Each
// line is asked for several times, since a request that finds no place may be dropped (linear_gguf.cpp), and into the
// second-level cache: more can be under way there than from the first.
inline constexpr int kAheadTiles[] = {16, 12, 8, 4};
template <typename C>
inline constexpr int kAheadScale = sizeof(C) == 1 ? 2 : 1;
template <typename C>
inline constexpr int kAhead = kAheadScale<C> * kAheadTiles[0];

// Asks for what lies `offset` elements into the tiles that are read after `tiles[0]`.
template <typename C>
OZONE_INLINE void prefetch(const C* const* tiles, int64_t offset, int vectors_per_tile = 1) {
    for (const int ahead : kAheadTiles)
        __builtin_prefetch(tiles[kAheadScale<C> * ahead * vectors_per_tile] + offset, 0, 2);
}

// ---- forms ----

struct Floats {
    using Element = float;  // of tiles of the form's own type
    using Scalar = float;   // of queries and probabilities: what one step of a product takes
    using Vector = F32;
    static constexpr int kPack = 1;

    static OZONE_INLINE Vector load(const float* from) { return OZONE_ISA::load(from); }
    static OZONE_INLINE void put(float* to, Vector x) { OZONE_ISA::store(to, x); }
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
    static OZONE_INLINE void put(bf16* to, Vector x) { _mm512_storeu_si512(to, (__m512i)x); }
    static OZONE_INLINE Vector broadcast(uint32_t x) { return (__m512bh)_mm512_set1_epi32(static_cast<int>(x)); }
    static OZONE_INLINE F32 dot(F32 sum, Vector a, Vector b) { return (F32)_mm512_dpbf16_ps((__m512)sum, a, b); }
    static OZONE_INLINE void store(bf16* to, F32 x) { OZONE_ISA::store(to, x); }
};
#endif

// What a cache of type C is multiplied as.
template <typename C>
struct FormOf {
#if defined(__AVX512BF16__)
    using type = Pairs;
#else
    using type = Floats;
#endif
};
template <>
struct FormOf<float> {
    using type = Floats;
};
template <>
struct FormOf<f16> {
    using type = Floats;
};

// ---- readers ----

// Reads a vector's lanes with kPack<C> neighbours in each as `kSteps` vectors, one for each step of a product.
// `kWide` is how many such reads a product has room for beside its sums.
template <typename Form, typename C>
struct Reader;

template <typename Form>
struct Reader<Form, typename Form::Element> {
    static constexpr int kSteps = 1;
    static constexpr int kWide = kLanes == 16 ? 4 : 2;
    OZONE_INLINE void operator()(typename Form::Vector* to, const typename Form::Element* from) const {
        to[0] = Form::load(from);
    }
};

template <>
struct Reader<Floats, f16> {
    static constexpr int kSteps = 1;
    static constexpr int kWide = kLanes == 16 ? 4 : 2;
    OZONE_INLINE void operator()(F32* to, const f16* from) const { to[0] = load(from); }
};

template <>
struct Reader<Floats, bf16> {
    static constexpr int kSteps = 2;
    static constexpr int kWide = 1;
    OZONE_INLINE void operator()(F32* to, const bf16* from) const {
        I32 pairs;
        std::memcpy(&pairs, from, sizeof pairs);
        to[0] = (F32)(pairs << 16);
        to[1] = (F32)(pairs & static_cast<int32_t>(0xffff0000));
    }
};

template <>
struct Reader<Floats, int8_t> {
    static constexpr int kSteps = 4;
    static constexpr int kWide = 1;
    OZONE_INLINE void operator()(F32* to, const int8_t* from) const {
        I32 codes;
        std::memcpy(&codes, from, sizeof codes);
        for (int i = 0; i < 4; ++i) to[i] = __builtin_convertvector(codes << (24 - 8 * i) >> 24, F32);
    }
};

template <>
struct Reader<Floats, e4m3> {
    static constexpr int kSteps = 4;
    static constexpr int kWide = 1;
    OZONE_INLINE void operator()(F32* to, const e4m3* from) const {
        I32 codes;
        std::memcpy(&codes, from, sizeof codes);
        for (int i = 0; i < 4; ++i) to[i] = e4m3_value(codes >> (8 * i));
    }
};

#if defined(__AVX512BF16__)
// The two bytes of the bfloat16 that the magnitude of an e4m3 code is, exactly.
struct ByteTables {
    uint8_t low[128], high[128];
};
constexpr ByteTables byte_tables() {
    ByteTables tables{};
    for (int code = 0; code < 128; ++code) {
        // mantissa * 2^exponent
        const int mantissa = code >= 8 ? 8 + code % 8 : code, exponent = (code >= 8 ? code / 8 : 1) - 10;
        int bits = 0;
        if (mantissa) {
            int top = 0;
            while (mantissa >> (top + 1)) ++top;
            bits = (exponent + top + 127) << 7 | ((mantissa << (7 - top)) & 0x7f);
        }
        if (code == 127) bits = 0x7fc0;  // NaN
        tables.low[code] = static_cast<uint8_t>(bits & 0xff);
        tables.high[code] = static_cast<uint8_t>(bits >> 8);
    }
    return tables;
}
inline constexpr ByteTables kByteTables = byte_tables();

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

template <>
struct Reader<Pairs, e4m3> {
    static constexpr int kSteps = 2;
    static constexpr int kWide = 2;
    __m512i order = _mm512_loadu_si512(kByteOrder.from);
    __m512i low[2] = {_mm512_loadu_si512(kByteTables.low), _mm512_loadu_si512(kByteTables.low + 64)};
    __m512i high[2] = {_mm512_loadu_si512(kByteTables.high), _mm512_loadu_si512(kByteTables.high + 64)};

    OZONE_INLINE void operator()(__m512bh* to, const e4m3* from) const {
        const __m512i x = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(from));
        const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
        // vpermi2b looks at seven bits of each index: the magnitude.
        const __m512i lower = _mm512_permutex2var_epi8(low[0], x, low[1]);
        const __m512i upper = _mm512_permutex2var_epi8(high[0], x, high[1]);
        const __m512i signed_upper = _mm512_ternarylogic_epi32(upper, x, sign, 0xf8);  // upper | (x & sign)
        to[0] = (__m512bh)_mm512_unpacklo_epi8(lower, signed_upper);
        to[1] = (__m512bh)_mm512_unpackhi_epi8(lower, signed_upper);
    }
};
#endif

// Vectors of columns that are summed beside each other, for R rows. Of codes more where rows are few.
template <typename Form, typename C, int R>
inline constexpr int kWideColumns = Reader<Form, C>::kWide;
#if defined(__AVX512BF16__)
template <int R>
inline constexpr int kWideColumns<Pairs, e4m3, R> = R <= 4 ? 4 : 2;
#endif

// ---- products ----

// out[r][lane] = factors[lane] * sum over steps of q[step][r] . keys, for R rows and V vectors of keys.
// Rows of `out` are `stride` apart, those of `q` are dense. `keys` are where the first steps of the vectors lie, and of
// kAhead tiles more.
template <typename Form, typename C, int R, int V>
void scores(float* out, int64_t stride, const typename Form::Scalar* q, const C* const* keys, int64_t steps,
            const float* factors) {
    constexpr int kSteps = Reader<Form, C>::kSteps;
    const Reader<Form, C> read;
    F32 sums[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = splat(0);
    for (int64_t step = 0; step < steps; step += kSteps) {
        typename Form::Vector k[V][kSteps];
        const int64_t at = step * Form::kPack * kTilePositions;
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            read(k[v], keys[v] + at);
            if (v % kSplit == 0) prefetch(keys + v, at, kSplit);
        }
#pragma GCC unroll 8
        for (int s = 0; s < kSteps; ++s)
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const typename Form::Vector one = Form::broadcast(q[r * steps + step + s]);
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) sums[r][v] = Form::dot(sums[r][v], one, k[v][s]);
            }
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
        const F32 factor = load(factors + v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) store(out + r * stride + v * kLanes, sums[r][v] * factor);
    }
}

// out[r][column] = keep[r] * out[r][column] + sum over positions of p[r][position] * values, for R rows and V
// vectors of columns. Rows of `p` and `out` are `p_stride` and `out_stride` apart. `values` has kAhead tiles more.
template <typename Form, typename C, int R, int V>
void gather(float* out, int64_t out_stride, const float* keep, const typename Form::Scalar* p, int64_t p_stride,
            const C* const* values, int64_t tiles, int64_t column, int64_t columns) {
    constexpr int kSteps = Reader<Form, C>::kSteps, kTileSteps = kTilePositions / Form::kPack;
    const Reader<Form, C> read;
    F32 sums[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[r][v] = splat(0);
    for (int64_t tile = 0; tile < tiles; ++tile) {
        int64_t at = column * kPack<C>;
        for (int step = 0; step < kTileSteps; step += kSteps) {
            typename Form::Vector x[V][kSteps];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                read(x[v], values[tile] + at + v * kLanes * kPack<C>);
                if (v % kSplit == 0) prefetch(values + tile, at + v * kLanes * kPack<C>);
            }
#pragma GCC unroll 8
            for (int s = 0; s < kSteps; ++s)
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r) {
                    const typename Form::Vector one = Form::broadcast(p[r * p_stride + step + s]);
#pragma GCC unroll 8
                    for (int v = 0; v < V; ++v) sums[r][v] = Form::dot(sums[r][v], one, x[v][s]);
                }
            at += columns * kPack<C>;
        }
        p += kTileSteps;
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

// Calls `body(Vectors<V>, column)` for all columns, kWide vectors of them at a time and then fewer.
template <int V>
struct Vectors {};
template <int kWide, typename Body>
OZONE_INLINE void each_column(int64_t columns, Body body) {
    int64_t column = 0;
    for (; column + kWide * kLanes <= columns; column += kWide * kLanes) body(Vectors<kWide>{}, column);
    if constexpr (kWide == 4)
        for (; column + 2 * kLanes <= columns; column += 2 * kLanes) body(Vectors<2>{}, column);
    if constexpr (kWide * kLanes > kTilePositions)  // columns come in sixteens
        for (; column < columns; column += kLanes) body(Vectors<1>{}, column);
}

// Calls `body(Rows<R>)` for the number of rows, 1 to kRows.
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

// ---- tiles decoded to the form's own type ----

// A tile of keys: [columns / pack][16][pack], of either type. `tile` is where it lies, and kAhead tiles after it.
template <typename Form, typename C>
OZONE_INLINE void decode_keys(typename Form::Element* to, const C* const* tile, int64_t columns) {
    constexpr int kSteps = Reader<Form, C>::kSteps;
    const Reader<Form, C> read;
    for (int64_t i = 0; i < columns; i += kPack<C>) {
        const int64_t at = i * kTilePositions;
        prefetch(tile, at);
        for (int half = 0; half < kSplit; ++half) {
            typename Form::Vector x[kSteps];
            read(x, *tile + at + half * kLanes * kPack<C>);
            for (int s = 0; s < kSteps; ++s)
                Form::put(to + at + (s * kTilePositions + half * kLanes) * Form::kPack, x[s]);
        }
    }
}

// A tile of values: [16 / pack][columns][pack], of either type.
template <typename Form, typename C>
OZONE_INLINE void decode_values(typename Form::Element* to, const C* const* tile, int64_t columns) {
    constexpr int kSteps = Reader<Form, C>::kSteps;
    const Reader<Form, C> read;
    for (int64_t position = 0; position < kTilePositions; position += kPack<C>)
        for (int64_t column = 0; column < columns; column += kLanes) {
            const int64_t at = position * columns + column * kPack<C>;
            prefetch(tile, at);
            typename Form::Vector x[kSteps];
            read(x, *tile + at);
            for (int s = 0; s < kSteps; ++s)
                Form::put(to + position * columns + (s * columns + column) * Form::kPack, x[s]);
        }
}

}  // namespace ozone::OZONE_ISA
