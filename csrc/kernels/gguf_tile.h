// The inner loops of `linear_gguf`: a tile of tokens with a panel.
//
// With registers of 512 bits a tile is up to four tokens whose sums with the panel stay in registers: an activation
// is broadcast once for three vectors of weights, a weight is taken apart once for four tokens. Where registers are
// fewer, or weights take long to take apart, a tile is up to 64 tokens whose sums stay in a first-level cache. Either
// way a sum is made of the same numbers in the same order.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/gguf_types.h"
#include "kernels/linear_gguf.h"
#include "kernels/panel.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

// A loop that callers know nothing of. Not inlined, sums stay in registers, which g++ 12 does not manage otherwise; and
// what it concludes about memory (-fipa-modref) loses the stores of the portable loop.
#if defined(__clang__)
#define OZONE_APART __attribute__((noinline))
#else
#define OZONE_APART __attribute__((noipa))
#endif

// Tokens whose sums fit in registers beside those of a group, or of both of its halves where they have scales.
#if defined(__AVX512F__)
template <typename Type>
inline constexpr int kRegisterTokens = Type::kHalfScales ? 3 : 4;
// Whether many tokens go through tiles of so few: not where taking weights apart costs half of what four tokens'
// products do.
template <typename Type>
inline constexpr bool kAlwaysRegisters = Type::kBits == 4 || Type::kBits == 8 || !Type::kIsK;
#else
template <typename Type>
inline constexpr int kRegisterTokens = 0;
template <typename Type>
inline constexpr bool kAlwaysRegisters = false;
#endif
// Tokens whose sums with a panel stay in a first-level cache (12 KB) while the panel streams past.
inline constexpr int64_t kCacheTokens = 64;

// Whether a product of so many tokens is made in tiles of kRegisterTokens, or else of kCacheTokens.
template <typename Type>
constexpr bool in_registers(int64_t tokens) { return kAlwaysRegisters<Type> || tokens <= kRegisterTokens<Type>; }

// How far ahead one tile alone asks for weights, into the second-level cache: more requests can be under way there
// than from the first one. Three times, since a request that finds no place may be dropped (AMD's Zen 4 does so),
// and asking for what is there or under way costs next to nothing: memory is read at 90-100% of what one core can,
// with one request at 70%.
inline constexpr int64_t kAheadBytes[] = {24 << 10, 14 << 10, 6 << 10};
// The same for processors that do not drop requests: what is needed soon goes into the first-level cache.
inline constexpr int64_t kNearBytes[] = {12 << 10, 4 << 10};

// Activations in the order in which they are read: tiles of tokens one after the other, in each its groups of
// columns, and in each group
//     int8   [tokens][32]
//     float  [tokens]      scales
//     4 byte [tokens][2]   what offsets or minimums of weights add, for each half of the columns: an int to start
//                          its sum at, or a float to multiply the minimum with (the first; the second is not used)
inline constexpr int64_t kTokenBytes = kGroupCols + 12;

template <typename T>
OZONE_INLINE T read(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
template <typename T>
OZONE_INLINE void write(std::byte* to, T value) {
    std::memcpy(to, &value, sizeof value);
}

// Writes the tile of the tokens [first, first + tokens) and returns its end.
template <typename Type>
std::byte* arrange(const LinearGguf& p, int64_t first, int64_t tokens, std::byte* to) {
    const int64_t groups = p.cols / kGroupCols, scales = p.cols / p.x_group, groups_of_a_scale = p.x_group / kGroupCols;
    int64_t at_scale = 0, left = groups_of_a_scale;
    for (int64_t g = 0; g < groups; ++g, to += tokens * kTokenBytes) {
        if (left-- == 0) ++at_scale, left = groups_of_a_scale - 1;
        for (int64_t t = 0; t < tokens; ++t) {
            const int64_t row = first + t;
            const float scale = p.x_scale[row * scales + at_scale];
            const int16_t* sums = p.x_sums + row * groups * 2 + g * 2;
            std::memcpy(to + t * kGroupCols, p.x + row * p.cols + g * kGroupCols, kGroupCols);
            write(to + tokens * kGroupCols + t * 4, scale);
            std::byte* extra = to + tokens * (kGroupCols + 4) + t * 8;
            if (Type::kHasMin) {
                write(extra, scale * static_cast<float>(sums[0] + sums[1]));
            } else if (Type::kHalfScales) {
                write(extra, -Type::kOffset * sums[0]);
                write(extra + 4, -Type::kOffset * sums[1]);
            } else {
                write(extra, -Type::kOffset * (sums[0] + sums[1]));
            }
        }
    }
    return to;
}

// The activations of a group of columns of a tile.
struct Columns {
    const std::byte *bytes, *scales, *extras;

    OZONE_INLINE Columns(const std::byte* tile, int64_t tokens, int64_t group)
        : bytes(tile + group * tokens * kTokenBytes),
          scales(bytes + tokens * kGroupCols),
          extras(scales + tokens * 4) {}

    OZONE_INLINE const int8_t* at(int64_t token) const {
        return reinterpret_cast<const int8_t*>(bytes + token * kGroupCols);
    }
    OZONE_INLINE F32 scale(int64_t token) const { return splat(read<float>(scales + token * 4)); }
    OZONE_INLINE F32 weighted_sum(int64_t token) const { return splat(read<float>(extras + token * 8)); }
    OZONE_INLINE I32 start(int64_t token, int half) const {
        return splat_int(read<int32_t>(extras + token * 8 + half * 4));
    }
};

// What the exact sums of a group (of both halves, where they have scales of their own) add to a sum.
template <typename Type>
OZONE_INLINE F32 add_scaled(F32 total, const I32* sums, const F32* scales, F32 min, const Columns& x, int64_t token) {
    F32 product = to_floats(sums[0]) * scales[0];
    if (Type::kHalfScales) product = fma(to_floats(sums[1]), scales[1], product);
    total = fma(product, x.scale(token), total);
    return Type::kHasMin ? fma(min, x.weighted_sum(token), total) : total;
}

// Asks for the part `part` of `parts` of the group that comes kAheadBytes later.
template <typename Type, bool near>
OZONE_INLINE void prefetch(const uint8_t* unit, int group, int part, int parts) {
    // The first group's bytes include the unit's head.
    const int64_t begin = group ? Type::kHeadBytes + group * Type::kGroupBytes : 0;
    const int64_t lines = (Type::kHeadBytes + (group + 1) * Type::kGroupBytes - begin + 63) / 64;
    for (int64_t line = lines * part / parts; line < lines * (part + 1) / parts; ++line)
        if constexpr (near) {
            __builtin_prefetch(unit + begin + line * 64 + kNearBytes[0], 0, 2);
            __builtin_prefetch(unit + begin + line * 64 + kNearBytes[1], 0, 3);
        } else {
            for (const int64_t ahead : kAheadBytes) __builtin_prefetch(unit + begin + line * 64 + ahead, 0, 2);
        }
}

// Adds up the products of a tile of many tokens with a panel: sums (tokens, 48). Weights are taken apart once for all.
template <typename Type, bool near>
OZONE_APART void add_cache_tile(float* sums, const std::byte* x, int64_t tokens, const uint8_t* panel,
                                int64_t units) {
    constexpr int kHalves = Type::kHalfScales ? 2 : 1, kSteps = kGroupSteps / kHalves;
    for (int64_t unit = 0; unit < units; ++unit, panel += Type::kUnitBytes) {
        for (int part = 0; part < Type::kGroups; ++part) {
            const Columns columns(x, tokens, unit * Type::kGroups + part);
            for (int v = 0; v < kPanelVectors; ++v) {
                prefetch<Type, near>(panel, part, v, kPanelVectors);
                const Rows<Type> rows(panel, part, v * kLanes);
                I32 weights[kGroupSteps];
#pragma GCC unroll 8
                for (int s = 0; s < kGroupSteps; ++s) weights[s] = rows.weights(s);
                F32 scales[kHalves];
                for (int half = 0; half < kHalves; ++half) scales[half] = rows.scale(half);
                const F32 min = Type::kHasMin ? rows.min() : F32{};
                float* total = sums + v * kLanes;
                for (int64_t t = 0; t < tokens; ++t, total += kPanelRows) {
                    I32 exact[kHalves];
                    for (int half = 0; half < kHalves; ++half)
                        exact[half] = dot_steps<Type::kBits, kSteps>(
                            Type::kHasMin ? I32{} : columns.start(t, half), weights + half * kSteps,
                            columns.at(t) + half * kSteps * 4);
                    store(total, add_scaled<Type>(load(total), exact, scales, min, columns, t));
                }
            }
        }
    }
}

#if defined(__AVX512F__)

// A group of all rows of a panel.
template <typename Type>
struct PanelGroup {
    const uint8_t* unit;
    int part;
    Rows<Type> rows[kPanelVectors];

    OZONE_INLINE PanelGroup(const uint8_t* panel, int64_t group)
        : unit(panel + group / Type::kGroups * Type::kUnitBytes), part(group % Type::kGroups),
          rows{{unit, part, 0}, {unit, part, kLanes}, {unit, part, 2 * kLanes}} {}
};

// What a tile asks for on its way, at each of the `parts` parts of a group. One tile alone runs ahead of itself.
template <bool near>
struct Ahead {
    template <typename Type>
    OZONE_INLINE void ask(const PanelGroup<Type>& group, int part, int parts) {
        prefetch<Type, near>(group.unit, group.part, part, parts);
    }
};
// Several tiles share the work of fetching the weights that come next, so that memory is busy while they compute.
struct Next {
    const uint8_t* at;
    int64_t advance, lines;  // in a group

    template <typename Type>
    OZONE_INLINE void ask(const PanelGroup<Type>&, int part, int) {
        if (part) return;
        for (int64_t line = 0; line < lines; ++line) __builtin_prefetch(at + line * 64, 0, 2);
        at += advance;
    }
};

// Adds to the sums of kTokens tokens, (kTokens, 48), what one group gives.
template <typename Type, int kTokens, typename Fetch>
OZONE_INLINE void add_group(F32 (&totals)[kTokens][kPanelVectors], const Columns& x, const PanelGroup<Type>& group,
                            Fetch& fetch) {
    constexpr int kHalves = Type::kHalfScales ? 2 : 1;
    I32 exact[kTokens][kPanelVectors][kHalves];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t)
#pragma GCC unroll 3
        for (int v = 0; v < kPanelVectors; ++v)
#pragma GCC unroll 2
            for (int half = 0; half < kHalves; ++half)
                exact[t][v][half] = Type::kHasMin ? I32{} : x.start(t, half);
    // Lower and upper columns of narrow weights come out of the same bytes.
    constexpr int kLines = Type::kBits == 8 ? 8 : 4;
#pragma GCC unroll 8
    for (int line = 0; line < kLines; ++line) {
        fetch.ask(group, line, kLines);
#pragma GCC unroll 2
        for (int step = line; step < kGroupSteps; step += kLines) {
            I32 weights[kPanelVectors];
#pragma GCC unroll 3
            for (int v = 0; v < kPanelVectors; ++v) weights[v] = group.rows[v].weights(step);
#pragma GCC unroll 4
            for (int t = 0; t < kTokens; ++t) {
                const Activations one = broadcast(x.at(t) + step * 4);
#pragma GCC unroll 3
                for (int v = 0; v < kPanelVectors; ++v) {
                    I32& sum = exact[t][v][kHalves == 2 ? step / 4 : 0];
                    sum = dot(sum, weights[v], one);
                }
            }
        }
    }
    F32 scales[kPanelVectors][kHalves], mins[kPanelVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kPanelVectors; ++v) {
#pragma GCC unroll 2
        for (int half = 0; half < kHalves; ++half) scales[v][half] = group.rows[v].scale(half);
        mins[v] = Type::kHasMin ? group.rows[v].min() : F32{};
    }
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t)
#pragma GCC unroll 3
        for (int v = 0; v < kPanelVectors; ++v)
            totals[t][v] = add_scaled<Type>(totals[t][v], exact[t][v], scales[v], mins[v], x, t);
}

// Sums come from memory and go back there.
template <int kTokens>
OZONE_INLINE void load_sums(F32 (&totals)[kTokens][kPanelVectors], const float* from) {
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t)
#pragma GCC unroll 3
        for (int v = 0; v < kPanelVectors; ++v) totals[t][v] = load(from + t * kPanelRows + v * kLanes);
}
template <int kTokens>
OZONE_INLINE void store_sums(float* to, const F32 (&totals)[kTokens][kPanelVectors]) {
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t)
#pragma GCC unroll 3
        for (int v = 0; v < kPanelVectors; ++v) store(to + t * kPanelRows + v * kLanes, totals[t][v]);
}

// Adds up the products of kTokens tokens with `groups` groups of a panel, from `first` on: sums (kTokens, 48).
template <typename Type, int kTokens, typename Fetch>
OZONE_APART void add_tile_of(float* sums, const std::byte* x, const uint8_t* panel, int64_t first, int64_t groups,
                             Fetch fetch) {
    F32 totals[kTokens][kPanelVectors];
    load_sums(totals, sums);
    for (int64_t g = 0; g < groups; ++g)
        add_group<Type>(totals, Columns(x, kTokens, g), PanelGroup<Type>(panel, first + g), fetch);
    store_sums(sums, totals);
}

template <typename Type, typename Fetch>
void add_register_tile(float* sums, const std::byte* x, int64_t tokens, const uint8_t* panel, int64_t first,
                       int64_t groups, Fetch fetch) {
    if (tokens == 1) return add_tile_of<Type, 1>(sums, x, panel, first, groups, fetch);
    if (tokens == 2) return add_tile_of<Type, 2>(sums, x, panel, first, groups, fetch);
    if (tokens == 3) return add_tile_of<Type, 3>(sums, x, panel, first, groups, fetch);
    if constexpr (kRegisterTokens<Type> == 4) add_tile_of<Type, 4>(sums, x, panel, first, groups, fetch);
}

#endif

}  // namespace ozone::OZONE_ISA
