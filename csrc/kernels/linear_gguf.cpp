#include "kernels/linear_gguf.h"

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
// How far ahead weights are asked for.
constexpr int64_t kAheadBytes = 8 << 10;

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
    const int64_t groups = p.cols / kGroupCols;
    for (int64_t g = 0; g < groups; ++g, to += tokens * kTokenBytes) {
        for (int64_t t = 0; t < tokens; ++t) {
            const int64_t row = first + t;
            const float scale = p.x_scale[row * (p.cols / p.x_group) + g * kGroupCols / p.x_group];
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

// Adds up the products of a tile with a panel: sums (tokens, 48).
template <typename Type>
__attribute__((noinline)) void add_panel(float* sums, const Tile& x, const uint8_t* panel, int64_t units) {
    for (int64_t unit = 0; unit < units; ++unit, panel += Type::kUnitBytes) {
        for (int part = 0; part < Type::kGroups; ++part) {
            const uint8_t* ahead = panel + Type::kHeadBytes + part * Type::kGroupBytes + kAheadBytes;
            for (int64_t line = 0; line < Type::kGroupBytes; line += 64) __builtin_prefetch(ahead + line);
            const std::byte* columns = x.group(unit * Type::kGroups + part);
            const std::byte* scales = columns + x.tokens * kGroupCols;
            const std::byte* extras = scales + x.tokens * 4;
            for (int v = 0; v < kPanelVectors; ++v) {
                const Group w = take_apart<Type>(panel, part, v * kLanes);
                float* total = sums + v * kLanes;
                for (int64_t t = 0; t < x.tokens; ++t, total += kPanelRows) {
                    const int8_t* bytes = reinterpret_cast<const int8_t*>(columns + t * kGroupCols);
                    const I32 start = splat_int(Type::kHasMin ? 0 : read<int32_t>(extras + t * 8));
                    constexpr int kSteps = Type::kHalfScales ? kGroupSteps / 2 : kGroupSteps;
                    const I32 low = dot_steps<Type::kBits, kSteps>(start, w.weights, bytes);
                    F32 product = to_floats(low) * w.scales[0];
                    if constexpr (Type::kHalfScales) {
                        const I32 upper = splat_int(read<int32_t>(extras + t * 8 + 4));
                        const I32 high = dot_steps<Type::kBits, kSteps>(upper, w.weights + kSteps, bytes + kSteps * 4);
                        product = fma(to_floats(high), w.scales[1], product);
                    }
                    F32 next = fma(product, splat(read<float>(scales + t * 4)), load(total));
                    if (Type::kHasMin) next = fma(w.min, splat(read<float>(extras + t * 8)), next);
                    store(total, next);
                }
            }
        }
    }
}

// Tokens [first, first + tokens) with the panels [panels.begin, panels.end) of a segment whose packed weights
// begin at `weight` and whose rows are [row, end).
template <typename Type>
void multiply(const LinearGguf& p, int64_t rows, int64_t first, int64_t tokens, Share panels, const uint8_t* weight,
              int64_t row, int64_t end) {
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
            __builtin_memset(sums, 0, in_tile * kPanelRows * 4);
            add_panel<Type>(sums, {arranged + t * (p.cols / kGroupCols) * kTokenBytes, in_tile},
                            weight + panel * units * Type::kUnitBytes, units);
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

void run(const LinearGguf& p, int rank, int size) {
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
                    multiply<Type>(p, rows, first, last - first, own, weight, row, row + segment.rows);
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
