#include "kernels/linear_float.h"

#include <cstddef>
#include <cstring>
#include <initializer_list>

#include "kernels/panel.h"
#include "kernels/product.h"
#include "kernels/share.h"
#include "kernels/simd.h"
#include "runtime/team.h"
#if defined(__AMX_BF16__)
#include "kernels/linear_amx.h"
#endif

namespace ozone::OZONE_ISA {
namespace {

// Tokens multiplied at a time, and how many of a panel's vectors with them: as many sums as registers hold beside
// what is multiplied. Of 16 registers g++ 12 uses 12 for sums without spilling only as 6 by 2.
#if defined(__AVX512F__)
constexpr int kTile = 8;
constexpr int tile_vectors(int) { return 3; }
#elif defined(__AVX2__)
constexpr int kTile = 6;
constexpr int tile_vectors(int tokens) { return tokens == 1 ? 6 : tokens <= 3 ? 3 : 2; }
#else  // vectors of two registers each
#if defined(__aarch64__)
constexpr int kTile = 4;
#else
constexpr int kTile = 2;
#endif
constexpr int tile_vectors(int tokens) { return tokens == 1 ? 6 : 3; }
#endif

// sum += a * b. With 16 registers, 12 of them sums, g++ moves sums about and spills them, unless it is told that a
// sum stays where it is.
OZONE_INLINE void accumulate(F32& sum, F32 a, F32 b) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
#else
    sum = fma(a, b, sum);
#endif
}

// sums[t][v] += weights(v) * x[t]. What there is less of is held in registers, the other comes one by one.
template <int tokens, int vectors, typename Weights>
OZONE_INLINE void multiply(F32 (&sums)[tokens][vectors], Weights weights, const float* x) {
    constexpr int fewer = tokens < vectors ? tokens : vectors;
    F32 held[fewer];
#pragma GCC unroll 8
    for (int i = 0; i < fewer; ++i) held[i] = tokens < vectors ? splat(x[i]) : weights(i);
#pragma GCC unroll 8
    for (int i = 0; i < tokens + vectors - fewer; ++i) {
        const F32 next = tokens < vectors ? weights(i) : splat(x[i]);
#pragma GCC unroll 8
        for (int j = 0; j < fewer; ++j) {
            accumulate(tokens < vectors ? sums[j][i] : sums[i][j], next, held[j]);
        }
    }
}

#define OZONE_LAMBDA __attribute__((always_inline))

// How weights of type T and a step's activations meet. Activations are packed beforehand, for each step and each
// of its units the tokens of a tile side by side, so that a tile reads them in one stream.
template <typename T>
struct Format {  // a step's columns one by one, as floats
    static constexpr int kStep = step_columns<T>();
    static constexpr int kUnits = 1;
    using Unit = float;

    template <int tokens, int vectors>
    static OZONE_INLINE void step(F32 (&sums)[tokens][vectors], const T* w, const Unit* x) {
        multiply(sums, [w](int v) OZONE_LAMBDA { return load(w + v * kLanes); }, x);
    }
};

template <>
struct Format<bf16> {
    static constexpr int kStep = step_columns<bf16>();
#if defined(__AVX512BF16__)
    static constexpr int kUnits = 1;  // both columns in one number
    using Unit = uint32_t;

    template <int tokens, int vectors>
    static OZONE_INLINE void step(F32 (&sums)[tokens][vectors], const bf16* w, const Unit* x) {
        __m512bh weights[vectors];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) weights[v] = (__m512bh)_mm512_loadu_si512(w + v * kLanes * kStep);
#pragma GCC unroll 8
        for (int t = 0; t < tokens; ++t) {
            int32_t pair;
            std::memcpy(&pair, x + t, 4);
            const __m512bh activation = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v)
                sums[t][v] = (F32)_mm512_dpbf16_ps((__m512)sums[t][v], weights[v], activation);
        }
    }
#else
    static constexpr int kUnits = 2;
    using Unit = float;

    template <int sums>
    static OZONE_INLINE F32 second(I32 pairs) {
#if defined(__AVX2__)
        if constexpr (sums == 12) {  // no register is left for a mask
            pairs = (I32)_mm256_srli_epi32((__m256i)pairs, 16);
            asm("" : "+x"(pairs));  // or the compiler makes it one
            return (F32)(pairs << 16);
        }
#endif
        return (F32)(pairs & static_cast<int32_t>(0xffff0000));
    }

    template <int tokens, int vectors>
    static OZONE_INLINE void step(F32 (&sums)[tokens][vectors], const bf16* w, const Unit* x) {
        const auto pairs = [w](int v) OZONE_LAMBDA {  // the first column in the low half
            I32 both;
            std::memcpy(&both, w + v * kLanes * kStep, sizeof both);
            return both;
        };
        multiply(sums, [&](int v) OZONE_LAMBDA { return (F32)(pairs(v) << 16); }, x);
        multiply(sums, [&](int v) OZONE_LAMBDA { return second<tokens * vectors>(pairs(v)); }, x + tokens);
    }
#endif
};

// Adds to the sums of a tile, (tokens, 48), what `steps` steps of a panel contribute.
template <typename T, int tokens, bool busy>
__attribute__((noinline)) void add_steps(float* sums, const T* w, const typename Format<T>::Unit* x, int64_t steps,
                                         bool first, Prefetch prefetch) {
    using F = Format<T>;
    constexpr int vectors = tile_vectors(tokens);
    F32 total[tokens][vectors];
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v)
            total[t][v] = first ? splat(0) : load(sums + t * kPanelRows + v * kLanes);
    for (int64_t s = 0; s < steps; ++s) {
        F::step(total, w, x);
        prefetch.template step<into_cache(tokens, busy)>();
        w += kPanelRows * F::kStep;
        x += tokens * F::kUnits;
    }
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) store(sums + t * kPanelRows + v * kLanes, total[t][v]);
}

template <typename T, int most = kTile, typename... Arguments>
OZONE_INLINE void add_steps_of(int tokens, bool busy, Arguments... arguments) {
    if constexpr (most > 1)
        if (tokens < most) return add_steps_of<T, most - 1>(tokens, busy, arguments...);
    if constexpr (most <= kTile / 2)
        if (!busy) return add_steps<T, most, false>(arguments...);
    add_steps<T, most, true>(arguments...);
}

#if defined(__AVX512F__)
// Eight numbers of 32 bits from each of eight rows, column by column.
OZONE_INLINE void transpose(uint32_t* to, const __m256i (&rows)[8]) {
    __m256i a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; ++j) {
            b[i + 2 * j] = _mm256_unpacklo_epi64(a[i + j], a[i + j + 2]);
            b[i + 2 * j + 1] = _mm256_unpackhi_epi64(a[i + j], a[i + j + 2]);
        }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i * 8), _mm256_permute2x128_si256(b[i], b[i + 4], 0x20));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i * 8 + 32),
                            _mm256_permute2x128_si256(b[i], b[i + 4], 0x31));
    }
}

OZONE_INLINE __m256i eight_units(const float* x) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)); }
OZONE_INLINE __m256i eight_units(const bf16* x) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)); }
OZONE_INLINE __m256i eight_units(const f16* x) {
    return (__m256i)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}
#endif

// Packs `cols` columns of `tokens` tokens, and zeros up to a whole step.
template <typename T>
OZONE_INLINE void pack_tile(typename Format<T>::Unit* to, const T* x, int64_t stride, int tokens, int64_t cols) {
    using F = Format<T>;
    constexpr int columns = F::kStep / F::kUnits;  // of a unit
    int64_t done = 0;
#if defined(__AVX512F__)
    if (tokens == 8)
        for (; done + 8 * columns <= cols; done += 8 * columns, to += 64) {
            __m256i rows[8];
#pragma GCC unroll 8
            for (int t = 0; t < 8; ++t) rows[t] = eight_units(x + t * stride + done);
            transpose(reinterpret_cast<uint32_t*>(to), rows);
        }
#endif
    for (int t = 0; t < tokens; ++t) {
        const T* row = x + t * stride;
        auto* unit = to + t;
        for (int64_t c = done; c < cols; c += columns, unit += tokens) {
            if constexpr (columns == 1) {
                *unit = to_float(row[c]);
            } else {
                *unit = row[c].bits;
                if (c + 1 < cols) *unit |= static_cast<uint32_t>(row[c + 1].bits) << 16;
            }
        }
        if (F::kUnits == 2 && cols % 2) *unit = 0;
    }
}

// Blocks: weights that stay in a second-level cache, tokens whose packed activations and sums fit in scratch.
constexpr int64_t kBlockBytes = 128 << 10;
constexpr int64_t kChunkTokens = 512;
constexpr int64_t kSumsBytes = kChunkTokens * kPanelRows * 4;
constexpr int64_t kPackedBytes = 2 << 20;
static_assert(kSumsBytes + kPackedBytes <= static_cast<int64_t>(kScratchBytes));
static_assert(kTile * kBlockBytes / (kPanelRows * 2) * 4 <= kPackedBytes, "a block of any type fits");

template <typename T>
void product(const LinearFloat& p, int rank, int size, int way) {
    using F = Format<T>;
    using Unit = typename F::Unit;
    const int64_t steps = (p.cols + F::kStep - 1) / F::kStep, panels = (p.rows + kPanelRows - 1) / kPanelRows;
    constexpr int64_t step_bytes = kPanelRows * F::kStep * sizeof(T);
    const int64_t row_units = steps * F::kUnits;
    const T* x = static_cast<const T*>(p.x);
    const Output to{p.out, p.bias, p.residual, p.rows, p.out_dtype, static_cast<float>(p.softcap)};
    float* sums = reinterpret_cast<float*>(scratch());
    Unit* packed = reinterpret_cast<Unit*>(scratch() + kSumsBytes);

    // Rows beyond that size, which no real model has, are packed a block at a time, for every panel anew.
    const int64_t fit = kPackedBytes / (row_units * static_cast<int64_t>(sizeof(Unit)));
    const bool whole = fit >= kTile;
    const int64_t chunk = fit > kChunkTokens ? kChunkTokens : whole ? fit / kTile * kTile : kTile;
    const Division mine = divide(panels, p.tokens, kTile, rank, size);
    for (int64_t token = mine.tokens.begin; token < mine.tokens.end; token += chunk) {
        const int64_t tokens = mine.tokens.end - token < chunk ? mine.tokens.end - token : chunk;
        const int64_t tiles = (tokens + kTile - 1) / kTile;
        if (whole)
            for (int64_t t = 0; t < tokens; t += kTile)
                pack_tile(packed + t * row_units, x + (token + t) * p.x_stride, p.x_stride,
                          static_cast<int>(tokens - t < kTile ? tokens - t : kTile), p.cols);
        const int64_t blocks = tiles == 1 && whole ? 1 : (steps * step_bytes + kBlockBytes - 1) / kBlockBytes;
        const int64_t block = (steps + blocks - 1) / blocks;
        for (int64_t panel = mine.panels.begin; panel < mine.panels.end; ++panel) {
            const T* weights = static_cast<const T*>(p.weight) + panel * steps * kPanelRows * F::kStep;
            for (int64_t s = 0; s < steps; s += block) {
                const int64_t count = steps - s < block ? steps - s : block;
                const T* w = weights + s * kPanelRows * F::kStep;
                for (int64_t t = 0; t < tokens; t += kTile) {
                    const int n = static_cast<int>(tokens - t < kTile ? tokens - t : kTile);
                    const Unit* activations = packed + (whole ? t * row_units + s * F::kUnits * n : 0);
                    if (!whole) {
                        const int64_t left = p.cols - s * F::kStep;
                        pack_tile(packed, x + token * p.x_stride + s * F::kStep, p.x_stride, n,
                                  left < count * F::kStep ? left : count * F::kStep);
                    }
                    const int vectors = tile_vectors(n), parts = kPanelVectors / vectors;
                    for (int part = 0; part < parts; ++part)
                        add_steps_of<T>(n, way == 1 || tiles > 1, sums + t * kPanelRows + part * vectors * kLanes,
                                        w + part * vectors * kLanes * F::kStep, activations, count, s == 0,
                                        prefetch_for(w, count, step_bytes, t * parts + part * n, n, tokens * parts));
                }
            }
            finish_tokens(to, token, tokens, panel * kPanelRows, sums);
        }
    }
}

}  // namespace

void run(const LinearFloat& p, int rank, int size, int way) {
#if defined(__AMX_BF16__)
    if (fits_tiles(p)) return product_in_tiles(p, rank, size);
#endif
    with_type(p.dtype, [&]<typename T>(T) { product<T>(p, rank, size, way); });
}

Stretch weights_of(const LinearFloat& p, int rank, int size) {
    Stretch weights;
    with_type(p.dtype, [&]<typename T>(T) {
        constexpr int64_t columns = step_columns<T>();
        const int64_t panel_bytes = (p.cols + columns - 1) / columns * columns * kPanelRows * sizeof(T);
        weights = panels_of(p.weight, p.rows, panel_bytes, p.tokens, kTile, rank, size);
    });
    return weights;
}

}  // namespace ozone::OZONE_ISA
