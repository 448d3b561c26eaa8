#include "kernels/linear_gguf.h"

#include <cstring>
#include <iterator>

#include "kernels/gguf_tile.h"
#include "kernels/gguf_types.h"
#include "kernels/panel.h"
#include "kernels/product.h"
#include "kernels/share.h"
#include "kernels/simd.h"
#include "runtime/team.h"

namespace ozone::OZONE_ISA {
namespace {

// Tokens that a rank takes at least, where tokens are divided among ranks.
constexpr int kRankTokens = 16;
// Activations are put in order for so many tokens at a time that they stay in a second-level cache.
constexpr int64_t kBlockBytes = 512 << 10;
constexpr int64_t kLeastBlockTokens = 64, kMostBlockTokens = 512;
constexpr int64_t kSumsBytes = kMostBlockTokens * kPanelRows * 4;
// Packed bytes that one row after the other is put into.
constexpr int64_t kPackBytes = 16 << 10;
// Whether a way asks for weights near.
constexpr bool kNear[] = {false, true};
static_assert(std::size(kNear) == std::size(LinearGguf::ways));

// Bytes of a panel that several tiles of a few tokens use, one after the other, out of a first-level cache.
[[maybe_unused]] constexpr int64_t kChunkBytes = 16 << 10;

// Tokens [first, first + count) of a product.
struct Tile {
    int64_t first, count;
};
// The tiles of some tokens, as equal as can be.
struct Tiles {
    int64_t tokens, count;

    Tiles(int64_t tokens_, int64_t most) : tokens(tokens_), count((tokens_ + most - 1) / most) {}
    Tile operator[](int64_t tile) const {
        const int64_t first = tokens * tile / count;
        return {first, tokens * (tile + 1) / count - first};
    }
};

// Adds up the products of tiles with a panel: sums (tokens, 48). Their activations lie one after the other at `x`.
template <typename Type, bool near>
void add_panel(float* sums, const std::byte* x, const Tiles& tiles, const uint8_t* panel, int64_t groups) {
    __builtin_memset(sums, 0, tiles.tokens * kPanelRows * 4);
#if defined(__AVX512F__)
    if (in_registers<Type>(tiles.tokens)) {
        if (tiles.count == 1)
            return add_register_tile<Type>(sums, x, tiles.tokens, panel, 0, groups, Ahead<near>{});
        if constexpr (kAlwaysRegisters<Type>) {
            constexpr int64_t kBytes = Type::kUnitBytes / Type::kGroups;  // of a group, with its part of the head
            constexpr int64_t kMost = kChunkBytes / kBytes;
            const int64_t chunks = (groups + kMost - 1) / kMost, advance = kBytes / tiles.count;
            for (int64_t chunk = 0; chunk < chunks; ++chunk) {
                const int64_t group = groups * chunk / chunks, count = groups * (chunk + 1) / chunks - group;
                Next next{panel + (group + count) * kBytes, advance, (advance + 63) / 64};
                for (int64_t i = 0; i < tiles.count; ++i, next.at += advance * count) {
                    const Tile tile = tiles[i];
                    add_register_tile<Type>(sums + tile.first * kPanelRows,
                                            x + (tile.first * groups + tile.count * group) * kTokenBytes, tile.count,
                                            panel, group, count, next);
                }
            }
        }
        return;
    }
#endif
    if constexpr (!kAlwaysRegisters<Type>)
        for (int64_t i = 0; i < tiles.count; ++i) {
            const Tile tile = tiles[i];
            add_cache_tile<Type, near>(sums + tile.first * kPanelRows, x + tile.first * groups * kTokenBytes,
                                       tile.count, panel, groups / Type::kGroups);
        }
}

// Tokens [first, first + tokens) with the panels [panels.begin, panels.end) of a segment whose packed weights
// begin at `weight` and whose rows are [row, end).
template <typename Type>
void multiply(const LinearGguf& p, int way, int64_t rows, int64_t first, int64_t tokens, Share panels,
              const uint8_t* weight, int64_t row, int64_t end) {
    const int64_t groups = p.cols / kGroupCols, panel_bytes = groups / Type::kGroups * Type::kUnitBytes;
    const Tiles tiles(tokens, in_registers<Type>(tokens) ? kRegisterTokens<Type> : kCacheTokens);
    float* sums = reinterpret_cast<float*>(scratch());
    std::byte* arranged = scratch() + kSumsBytes;
    std::byte* to = arranged;
    for (int64_t i = 0; i < tiles.count; ++i) to = arrange<Type>(p, first + tiles[i].first, tiles[i].count, to);
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        const uint8_t* packed = weight + panel * panel_bytes;
        kNear[way] ? add_panel<Type, true>(sums, arranged, tiles, packed, groups)
                        : add_panel<Type, false>(sums, arranged, tiles, packed, groups);
        for (int64_t t = 0; t < tokens; ++t) {
            // A segment may end inside of the panel, so `rows` says where, and addresses are the token's own.
            const int64_t at = (first + t) * rows * (p.dtype == static_cast<int64_t>(DType::f32) ? 4 : 2);
            Output token{static_cast<std::byte*>(p.out) + at, p.bias, nullptr,
                         end, p.dtype, static_cast<float>(p.softcap)};
            if (p.residual) token.residual = static_cast<const std::byte*>(p.residual) + at;
            F32 products[kPanelVectors];
            for (int v = 0; v < kPanelVectors; ++v) products[v] = load(sums + t * kPanelRows + v * kLanes);
            finish(token, 0, row + panel * kPanelRows, products);
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
    const int64_t room = static_cast<int64_t>(kScratchBytes) - kSumsBytes;
    int64_t block = kBlockBytes / token_bytes;
    block = block < kLeastBlockTokens ? kLeastBlockTokens : block > kMostBlockTokens ? kMostBlockTokens : block;
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
                    multiply<Type>(p, way, rows, first, last - first, own, weight, row, row + segment.rows);
                weight += own_panels * (p.cols / (kGroupCols * Type::kGroups)) * Type::kUnitBytes;
            });
            row += segment.rows;
            before += own_panels;
        }
    }
}

Stretch weights_of(const LinearGguf& p, int rank, int size) {
    static_assert(kFewTokens <= kRankTokens);
    if (p.tokens > kFewTokens) return {};
    int64_t panels = 0;
    for (const auto& segment : p.segments) panels += (segment.rows + kPanelRows - 1) / kPanelRows;
    const Share mine = divide(panels, p.tokens, kRankTokens, rank, size).panels;
    int64_t before = 0, begin = 0, end = 0;  // panels and bytes
    for (const auto& segment : p.segments) {
        if (segment.rows == 0) continue;
        const int64_t own = (segment.rows + kPanelRows - 1) / kPanelRows;
        with_gguf_type(segment.type, [&]<typename Type>(Type) {
            const int64_t panel_bytes = p.cols / (kGroupCols * Type::kGroups) * Type::kUnitBytes;
            const auto bytes_before = [&](int64_t panel) {
                const int64_t inside = panel - before;
                return (inside < 0 ? 0 : inside > own ? own : inside) * panel_bytes;
            };
            begin += bytes_before(mine.begin);
            end += bytes_before(mine.end);
        });
        before += own;
    }
    return {reinterpret_cast<const std::byte*>(p.weight) + begin, end - begin};
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
