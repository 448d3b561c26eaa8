#include "kernels/linear_gguf.h"

#include <cstring>
#include <iterator>

#include "kernels/gguf_types.h"
#include "kernels/panel.h"
#include "kernels/product.h"
#include "kernels/share.h"
#include "kernels/simd.h"
#include "runtime/team.h"

namespace ozone::OZONE_ISA {
namespace {

// Tokens whose sums with a panel stay in a first-level cache (12 KB) while the panel streams past: weights are
// taken apart once for all of them.
constexpr int64_t kTileTokens = 64;
// Tokens that a rank takes at least, where tokens are divided among ranks.
constexpr int kRankTokens = 16;
// Activations are put in order for so many tokens at a time that they stay in a second-level cache.
constexpr int64_t kBlockBytes = 512 << 10;
constexpr int64_t kMostBlockTokens = 512;
// Packed bytes that one row after the other is put into.
constexpr int64_t kPackBytes = 16 << 10;
// How far ahead weights are asked for, into the second-level cache: more requests can be under way there than
// from the first one. Three times, since a request that finds no place may be dropped (AMD's Zen 4 does so), and
// asking for what is there or under way costs next to nothing: memory is read at 90-100% of what one core can,
// with one request at 70%.
constexpr int64_t kAheadBytes[] = {24 << 10, 14 << 10, 6 << 10};
// The same for processors that do not drop requests: what is needed soon goes into the first-level cache.
constexpr int64_t kNearBytes[] = {12 << 10, 4 << 10};

// What ways differ in.
struct Way {
    int64_t few_tokens;  // up to so many go through weights as they lie in memory, where there is a loop for that
    bool near;
};
constexpr int64_t kFewTokens = 3;
constexpr Way kWays[] = {{kFewTokens, false}, {0, false}, {kFewTokens, true}};
static_assert(std::size(kWays) == std::size(LinearGguf::ways));

// Activations in the order in which they are read: tiles of tokens one after the other, in each its groups of
// columns, and in each group
//     int8   [tokens][32]
//     float  [tokens]      scales
//     4 byte [tokens][2]   what offsets or minimums of weights add, for each half of the columns: an int to start
//                          its sum at, or a float to multiply the minimum with (the first; the second is not used)
constexpr int64_t kTokenBytes = kGroupCols + 12;

struct Tile {
    const std::byte* at;
    int64_t tokens;

    const std::byte* group(int64_t g) const { return at + g * tokens * kTokenBytes; }
};

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

    OZONE_INLINE Columns(const Tile& x, int64_t group)
        : bytes(x.group(group)), scales(bytes + x.tokens * kGroupCols), extras(scales + x.tokens * 4) {}

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

// Adds up the products of a tile with a panel: sums (tokens, 48). Weights are taken apart once for all tokens.
template <typename Type, bool near>
__attribute__((noinline)) void add_panel(float* sums, const Tile& x, const uint8_t* panel, int64_t units) {
    constexpr int kHalves = Type::kHalfScales ? 2 : 1, kSteps = kGroupSteps / kHalves;
    for (int64_t unit = 0; unit < units; ++unit, panel += Type::kUnitBytes) {
        for (int part = 0; part < Type::kGroups; ++part) {
            const Columns columns(x, unit * Type::kGroups + part);
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
                for (int64_t t = 0; t < x.tokens; ++t, total += kPanelRows) {
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
// The same for so few tokens that memory decides how long it takes: weights are read in the order in which they
// lie there.
template <typename Type, bool near, int kTokens>
__attribute__((noinline)) void add_panel_few(float* sums, const Tile& x, const uint8_t* panel, int64_t units) {
    F32 totals[kTokens][kPanelVectors];
    for (int t = 0; t < kTokens; ++t)
        for (int v = 0; v < kPanelVectors; ++v) totals[t][v] = splat(0);
    for (int64_t unit = 0; unit < units; ++unit, panel += Type::kUnitBytes) {
        for (int part = 0; part < Type::kGroups; ++part) {
            const Columns columns(x, unit * Type::kGroups + part);
            const Rows<Type> rows[kPanelVectors] = {
                {panel, part, 0}, {panel, part, kLanes}, {panel, part, 2 * kLanes}};
            // Lower and upper columns apart: they come out of the same bytes, and two chains of sums are faster.
            I32 exact[kTokens][kPanelVectors][2];
#pragma GCC unroll 3
            for (int t = 0; t < kTokens; ++t)
#pragma GCC unroll 3
                for (int v = 0; v < kPanelVectors; ++v) {
                    exact[t][v][0] = Type::kHasMin ? I32{} : columns.start(t, 0);
                    exact[t][v][1] = Type::kHalfScales ? columns.start(t, 1) : I32{};
                }
            constexpr int kLines = Type::kBits == 8 ? 8 : 4;
#pragma GCC unroll 8
            for (int line = 0; line < kLines; ++line) {
                prefetch<Type, near>(panel, part, line, kLines);
#pragma GCC unroll 3
                for (int v = 0; v < kPanelVectors; ++v)
#pragma GCC unroll 2
                    for (int step = line; step < kGroupSteps; step += kLines) {
                        const I32 weights = rows[v].weights(step);
#pragma GCC unroll 3
                        for (int t = 0; t < kTokens; ++t) {
                            I32& sum = exact[t][v][step / 4];
                            sum = dot(sum, weights, broadcast(columns.at(t) + step * 4));
                        }
                    }
            }
#pragma GCC unroll 3
            for (int v = 0; v < kPanelVectors; ++v) {
                const F32 scales[2] = {rows[v].scale(0), Type::kHalfScales ? rows[v].scale(1) : F32{}};
                const F32 min = Type::kHasMin ? rows[v].min() : F32{};
#pragma GCC unroll 3
                for (int t = 0; t < kTokens; ++t) {
                    if (!Type::kHalfScales) exact[t][v][0] += exact[t][v][1];
                    totals[t][v] = add_scaled<Type>(totals[t][v], exact[t][v], scales, min, columns, t);
                }
            }
        }
    }
    for (int t = 0; t < kTokens; ++t)
        for (int v = 0; v < kPanelVectors; ++v) store(sums + t * kPanelRows + v * kLanes, totals[t][v]);
}
#endif

template <typename Type, bool near>
OZONE_INLINE void add_panel_in_way(float* sums, const Tile& x, const uint8_t* panel, int64_t units,
                                   [[maybe_unused]] int64_t few) {
#if defined(__AVX512F__)
    if (x.tokens <= few) {
        if (x.tokens == 1) return add_panel_few<Type, near, 1>(sums, x, panel, units);
        if (x.tokens == 2) return add_panel_few<Type, near, 2>(sums, x, panel, units);
        return add_panel_few<Type, near, 3>(sums, x, panel, units);
    }
#endif
    add_panel<Type, near>(sums, x, panel, units);
}

// Tokens [first, first + tokens) with the panels [panels.begin, panels.end) of a segment whose packed weights
// begin at `weight` and whose rows are [row, end).
template <typename Type>
void multiply(const LinearGguf& p, const Way& way, int64_t rows, int64_t first, int64_t tokens, Share panels,
              const uint8_t* weight, int64_t row, int64_t end) {
    const int64_t units = p.cols / (kGroupCols * Type::kGroups);
    const int64_t tiles = (tokens + kTileTokens - 1) / kTileTokens;
    float* sums = reinterpret_cast<float*>(scratch());
    std::byte* arranged = scratch() + kTileTokens * kPanelRows * 4;
    std::byte* to = arranged;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t t = tokens * tile / tiles;
        to = arrange<Type>(p, first + t, tokens * (tile + 1) / tiles - t, to);
    }
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        for (int64_t tile = 0; tile < tiles; ++tile) {
            const int64_t t = tokens * tile / tiles, in_tile = tokens * (tile + 1) / tiles - t;
            const Tile x{arranged + t * (p.cols / kGroupCols) * kTokenBytes, in_tile};
            const uint8_t* packed = weight + panel * units * Type::kUnitBytes;
            __builtin_memset(sums, 0, in_tile * kPanelRows * 4);
            way.near ? add_panel_in_way<Type, true>(sums, x, packed, units, way.few_tokens)
                     : add_panel_in_way<Type, false>(sums, x, packed, units, way.few_tokens);
            for (int64_t i = 0; i < in_tile; ++i) {
                // A segment may end inside of the panel, so `rows` says where, and addresses are the token's own.
                const int64_t at = (first + t + i) * rows * (p.dtype == static_cast<int64_t>(DType::f32) ? 4 : 2);
                Output token{static_cast<std::byte*>(p.out) + at, p.bias, nullptr,
                             end, p.dtype, static_cast<float>(p.softcap)};
                if (p.residual) token.residual = static_cast<const std::byte*>(p.residual) + at;
                F32 products[kPanelVectors];
                for (int v = 0; v < kPanelVectors; ++v) products[v] = load(sums + i * kPanelRows + v * kLanes);
                finish(token, 0, row + panel * kPanelRows, products);
            }
        }
    }
}

}  // namespace

void run(const LinearGguf& p, int rank, int size, int way) {
    int64_t rows = 0, panels = 0;
    for (const auto& segment : p.segments) {
        rows += segment.rows;
        panels += (segment.rows + kPanelRows - 1) / kPanelRows;
    }
    const int64_t token_bytes = p.cols / kGroupCols * kTokenBytes;
    const int64_t room = static_cast<int64_t>(kScratchBytes) - kTileTokens * kPanelRows * 4;
    int64_t block = kBlockBytes / token_bytes;
    block = block < kTileTokens ? kTileTokens : block > kMostBlockTokens ? kMostBlockTokens : block;
    block = block * token_bytes > room ? room / token_bytes : block;
    const Division share = divide(panels, p.tokens, kRankTokens, rank, size);
    const int64_t tokens = share.tokens.end - share.tokens.begin, blocks = (tokens + block - 1) / block;
    for (int64_t b = 0; b < blocks; ++b) {
        const int64_t first = share.tokens.begin + tokens * b / blocks;
        const int64_t last = share.tokens.begin + tokens * (b + 1) / blocks;
        const uint8_t* weight = p.weight;
        int64_t row = 0, before = 0;
        for (const auto& segment : p.segments) {
            if (segment.rows == 0) continue;
            const int64_t own_panels = (segment.rows + kPanelRows - 1) / kPanelRows;
            const int64_t begin = share.panels.begin - before, end = share.panels.end - before;
            const Share own{begin < 0 ? 0 : begin, end > own_panels ? own_panels : end};
            with_gguf_type(segment.type, [&]<typename Type>(Type) {
                if (own.begin < own.end)
                    multiply<Type>(p, kWays[way], rows, first, last - first, own, weight, row, row + segment.rows);
                weight += own_panels * (p.cols / (kGroupCols * Type::kGroups)) * Type::kUnitBytes;
            });
            row += segment.rows;
            before += own_panels;
        }
    }
}

void run(const EmbeddingGguf& p, int rank, int size) {
    const Share share = share_of(p.tokens, rank, size);
    for (int64_t t = share.begin; t < share.end; ++t) {
        const int64_t row = p.wide_ids ? static_cast<const int64_t*>(p.token_ids)[t]
                                       : static_cast<const int32_t*>(p.token_ids)[t];
        with_gguf_type(p.type, [&]<typename Type>(Type) {
            const int64_t units = p.cols / (kGroupCols * Type::kGroups);
            const uint8_t* unit = p.weight + row / kPanelRows * units * Type::kUnitBytes;
            for (int64_t g = 0; g < units * Type::kGroups; ++g) {
                float values[kGroupCols];
                dequantize<Type>(values, unit + g / Type::kGroups * Type::kUnitBytes, g % Type::kGroups, row % kPanelRows);
                with_type(p.dtype, [&]<typename T>(T) {
                    T* out = static_cast<T*>(p.out) + t * p.cols + g * kGroupCols;
                    for (int i = 0; i < kGroupCols; i += kLanes)
                        store(out + i, rounded_to<T>(load(values + i)) * splat(static_cast<float>(p.scale)));
                });
            }
        });
    }
}

void run(const PackGguf& p, int rank, int size) {
    with_gguf_type(p.type, [&]<typename Type>(Type) {
        const int64_t units = p.cols / (kGroupCols * Type::kGroups);
        const Share share = share_of(p.rows, rank, size);
        const int64_t row_bytes = units * Type::kBlockBytes;
        // A few units of a panel at a time, so that they stay in a first-level cache while rows fill them.
        const int64_t most = kPackBytes < Type::kUnitBytes ? 1 : kPackBytes / Type::kUnitBytes;
        for (int64_t begin = p.row + share.begin, end; begin < p.row + share.end; begin = end) {
            end = (begin / kPanelRows + 1) * kPanelRows;
            end = end < p.row + share.end ? end : p.row + share.end;
            uint8_t* panel = p.packed + begin / kPanelRows * units * Type::kUnitBytes;
            for (int64_t first = 0; first < units; first += most) {
                const int64_t last = first + most < units ? first + most : units;
                for (int64_t row = begin; row < end; ++row) {
                    const uint8_t* blocks = p.blocks + (row - p.row) * row_bytes;
                    for (int64_t unit = first; unit < last; ++unit)
                        pack_block<Type>(panel + unit * Type::kUnitBytes, row % kPanelRows,
                                         blocks + unit * Type::kBlockBytes);
                }
            }
        }
    });
}

}  // namespace ozone::OZONE_ISA
