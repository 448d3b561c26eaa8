// Products with weights that are decoded on their way into a multiplication: FP8 and 4-bit integers.
//
// A coding takes one vector of packed weights apart into units. A unit is what one instruction multiplies: for
// each row of the vector one column as a float, or two columns as a pair of bfloat16. Activations are packed in the
// same units, for each of them the tokens of a tile side by side. With few tokens weights are decoded between
// memory and multiplication; with many, a block of a panel is decoded once into scratch memory for all tokens.
//
// Columns come in groups. The sum of a group starts at zero and is added to the total by the op that knows the
// group's scales. A sum's order depends on nothing but the columns, so that equal rows of any batch get equal
// results.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/panel.h"
#include "kernels/product.h"
#include "kernels/share.h"
#include "kernels/simd.h"
#include "runtime/team.h"

namespace ozone::OZONE_ISA {

// Tokens whose sums fit in registers, with `tile_vectors` vectors of a panel at a time.
#if defined(__AVX512F__)
inline constexpr int kTile = 8;
#elif defined(__AVX2__) || defined(__aarch64__)
inline constexpr int kTile = 4;
#else
inline constexpr int kTile = 2;
#endif
// Up to so many tiles, it takes less to decode weights for each than to store them decoded.
#if defined(__AVX512F__)
inline constexpr int kStreamedTiles = 4;
#else
inline constexpr int kStreamedTiles = 1;
#endif
// How far ahead of itself one pass over weights asks memory for them.
inline constexpr int64_t kAheadBytes = 8 << 10;

// What ways of these products differ in.
struct CodedWay {
    int64_t streamed_tiles, ahead_bytes;
};
inline constexpr CodedWay kCodedWays[] = {
    {kStreamedTiles, kAheadBytes},      // "default"
    {4 * kStreamedTiles, kAheadBytes},  // "stream"
    {kStreamedTiles, kAheadBytes / 2},  // "near"
};
constexpr int tile_vectors(int tokens) { return tokens == 1 ? kPanelVectors : 3; }

// Every coding has steps of 4 bytes for each row; a vector of them is one of kLanes rows.
inline constexpr int64_t kStepBytes = kPanelRows * 4, kVectorBytes = kLanes * 4;

// ---- arithmetic: how units are multiplied and added ----

// In both, the second `add` has its activation come from memory with the multiplication, and says so in assembly
// where an instruction does that: the compiler would load it once for all vectors, and has no registers for that.

struct Floats {
    using Unit = F32;

    static OZONE_INLINE Unit broadcast(const uint32_t* x) {
        float activation;
        std::memcpy(&activation, x, 4);
        return splat(activation);
    }
    static OZONE_INLINE void add(F32& sum, Unit weights, Unit x) { sum = fma(weights, x, sum); }
    static OZONE_INLINE void add(F32& sum, Unit weights, const uint32_t* x) {
#if defined(__AVX512F__)
        asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*x));
#else
        add(sum, weights, broadcast(x));
#endif
    }
};

#if defined(__AVX512BF16__)
struct Pairs {
    using Unit = __m512i;

    static OZONE_INLINE Unit broadcast(const uint32_t* x) { return _mm512_set1_epi32(static_cast<int>(*x)); }
    static OZONE_INLINE void add(F32& sum, Unit weights, Unit x) {
        sum = (F32)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)x);
    }
    static OZONE_INLINE void add(F32& sum, Unit weights, const uint32_t* x) {
        asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*x));
    }
};
#endif

// ---- one step of a panel ----

// Decodes `vectors` vectors of a step and adds their products to the sums of a tile.
template <int tokens, int vectors, typename Coding>
OZONE_INLINE void add_step(F32 (&sums)[tokens][vectors], const Coding& coding, const uint8_t* weights,
                           const uint32_t* x, int64_t ahead) {
#pragma GCC unroll 6
    for (int v = 0; v < vectors; ++v) {
        const uint8_t* from = weights + v * kVectorBytes;
        if ((v * kVectorBytes) % 64 == 0) __builtin_prefetch(from + ahead);
        const auto vector = coding.decode(from);
#pragma GCC unroll 8
        for (int u = 0; u < Coding::kUnits; ++u)
#pragma GCC unroll 8
            for (int t = 0; t < tokens; ++t)
                Coding::Arithmetic::add(sums[t][v], vector.unit[u], x + u * tokens + t);
        asm volatile("" ::: "memory");  // the next vector loads activations anew, see above
    }
}

// The coding of what is decoded already: a step is one unit.
template <typename A>
struct Decoded {
    using Arithmetic = A;
    static constexpr int kUnits = 1;
};

template <int tokens, int vectors, typename A>
OZONE_INLINE void add_step(F32 (&sums)[tokens][vectors], const Decoded<A>&, const uint8_t* weights,
                           const uint32_t* x, int64_t) {
    typename A::Unit units[vectors];
#pragma GCC unroll 6
    for (int v = 0; v < vectors; ++v) std::memcpy(&units[v], weights + v * kVectorBytes, sizeof units[v]);
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) {
        const typename A::Unit activation = A::broadcast(x + t);
#pragma GCC unroll 6
        for (int v = 0; v < vectors; ++v) A::add(sums[t][v], units[v], activation);
    }
}

// ---- the multiplication ----

// What one call multiplies: some steps of a panel, or of two panels at a time, with the tokens of a tile.
struct Pass {
    int64_t panel = 0, token = 0, group = 0;  // the first of each, tokens counted within the chunk
    int64_t panels_apart = 0, panel_bytes = 0;
    int64_t steps = 0, group_steps = 0;  // of all groups, of one
    int64_t ahead_bytes = kAheadBytes;   // how far ahead a step asks for weights that it decodes
    bool grouped = false;                // otherwise the sum of the one group goes on from `totals`, unscaled
    // What a step prefetches where weights are decoded already, and by how much that advances.
    const char* ahead = nullptr;
    int64_t ahead_step = 0;
    int64_t next_tile = 0;  // likewise: how far behind the activations those of the next tile are
};

// totals: (panels, tokens, 48). Not inlined, with sums that come from memory and go back: so g++ 12 keeps them
// in registers in between.
template <typename Coding, int tokens, int panels, typename Op>
__attribute__((noinline)) void multiply(const Op& op, const Coding& codes, const Pass& pass, const uint8_t* weights,
                                        const uint32_t* x, float* totals) {
    constexpr int vectors = tile_vectors(tokens);
    const Coding coding = codes;
    const int64_t apart = pass.panels_apart * pass.panel_bytes, ahead_bytes = pass.ahead_bytes;
    for (int first = 0; first < kPanelVectors; first += vectors) {
        const uint8_t* w = weights + first * kVectorBytes;
        const uint32_t* activations = x;
        const char* ahead = pass.ahead;
        int64_t group = pass.group;
        for (int64_t left = pass.steps; left > 0; ++group) {
            const int64_t steps = left < pass.group_steps ? left : pass.group_steps;
            left -= steps;
            F32 sums[panels][tokens][vectors];
#pragma GCC unroll 2
            for (int p = 0; p < panels; ++p)
#pragma GCC unroll 8
                for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 6
                    for (int v = 0; v < vectors; ++v)
                        sums[p][t][v] =
                            pass.grouped ? splat(0)
                                         : load(totals + (p * tokens + t) * kPanelRows + (first + v) * kLanes);
            for (int64_t step = 0; step < steps; ++step) {
                if constexpr (Coding::kUnits == 1) {  // decoded already, and in a cache
                    __builtin_prefetch(ahead);
                    ahead += pass.ahead_step;
                    __builtin_prefetch(activations + pass.next_tile);
                }
#pragma GCC unroll 2
                for (int p = 0; p < panels; ++p) add_step(sums[p], coding, w + p * apart, activations, ahead_bytes);
                w += kStepBytes;
                activations += Coding::kUnits * tokens;
            }
            const auto numbers = op.numbers(pass.token, group);
#pragma GCC unroll 2
            for (int p = 0; p < panels; ++p)
#pragma GCC unroll 6
                for (int v = 0; v < vectors; ++v) {
                    float* to = totals + p * tokens * kPanelRows + (first + v) * kLanes;
                    if (!pass.grouped) {
#pragma GCC unroll 8
                        for (int t = 0; t < tokens; ++t) store(to + t * kPanelRows, sums[p][t][v]);
                        continue;
                    }
                    const auto scales = op.scales(pass.panel + p * pass.panels_apart, group, first + v);
#pragma GCC unroll 8
                    for (int t = 0; t < tokens; ++t) {
                        const F32 total = load(to + t * kPanelRows);
                        store(to + t * kPanelRows, op.add_group(total, sums[p][t][v], scales, numbers + t));
                    }
                }
        }
    }
}

template <typename Coding, int most = kTile, typename Op>
OZONE_INLINE void multiply_tile(int tokens, const Op& op, const Coding& coding, const Pass& pass,
                                const uint8_t* weights, const uint32_t* x, float* totals) {
    if constexpr (most > 1)
        if (tokens < most) return multiply_tile<Coding, most - 1>(tokens, op, coding, pass, weights, x, totals);
    multiply<Coding, most, 1>(op, coding, pass, weights, x, totals);
}

// Decodes `steps` steps of a panel to units of 48 rows.
template <typename Coding>
void decode_block(const Coding& coding, uint8_t* to, const uint8_t* from, int64_t steps) {
    for (int64_t step = 0; step < steps; ++step, from += kStepBytes, to += Coding::kUnits * kStepBytes)
#pragma GCC unroll 6
        for (int v = 0; v < kPanelVectors; ++v) {
            const auto vector = coding.decode(from + v * kVectorBytes);
#pragma GCC unroll 8
            for (int u = 0; u < Coding::kUnits; ++u)
                std::memcpy(to + u * kStepBytes + v * kVectorBytes, &vector.unit[u], sizeof vector.unit[u]);
        }
}

// ---- activations ----

// Writes units of some rows, `apart` units from row to row, side by side: to[unit][row]. May write up to 28 bytes
// behind the last.
inline void interleave(uint32_t* to, const uint32_t* rows, int64_t apart, int64_t tokens, int64_t units) {
    int64_t u = 0;
#if defined(__AVX2__)
    // Eight by eight. What rows that do not exist give is overwritten by the next unit.
    for (; u < units; u += 8) {
        __m256i a[8], b[8];
#pragma GCC unroll 8
        for (int t = 0; t < 8; ++t)
            a[t] = t < tokens ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows + t * apart + u))
                              : _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int i = 0; i < 8; i += 2) {
            b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
            b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 8; i += 4) {
            a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
            a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
            a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
            a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            b[i] = _mm256_permute2x128_si256(a[i], a[i + 4], 0x20);
            b[i + 4] = _mm256_permute2x128_si256(a[i], a[i + 4], 0x31);
        }
        const int64_t left = units - u;
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i)
            if (i < left) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + (u + i) * tokens), b[i]);
    }
#else
    for (; u < units; ++u)
        for (int64_t t = 0; t < tokens; ++t) to[u * tokens + t] = rows[t * apart + u];
#endif
}

// ---- the whole product ----

// Activations of a chunk fit in scratch memory whatever their number of columns up to this.
inline constexpr int64_t kMostColumns = 1 << 16;
inline constexpr int64_t kChunkTokens = 512;
// Columns of a decoded block, which is to stay in a second-level cache.
inline constexpr int64_t kBlockColumns = 512;
// Groups are not longer than this, except one that has all columns.
inline constexpr int64_t kMostGroupColumns = 2048;
// Scratch memory: a decoded block (before that, rows to interleave), totals, activations.
inline constexpr int64_t kDecodedBytes = kMostGroupColumns * kPanelRows * 4;
inline constexpr int64_t kTotalsBytes = kChunkTokens * kPanelRows * 4;
inline constexpr int64_t kRestBytes = static_cast<int64_t>(kScratchBytes) - kDecodedBytes - kTotalsBytes - 64;
static_assert(kTile * kMostColumns * (4 + 1) <= kRestBytes);
// Activations are interleaved by so many steps. Rows of them are not a power of two apart, which caches dislike.
inline constexpr int64_t kPackedSteps = 64, kPackedRow = kPackedSteps * 8 + 16;

// An op has
//     Coding, coding()        how its weights are coded; a step is Coding::kColumns columns
//     weight                  packed
//     tokens, rows, cols
//     group_cols              columns of a group, a multiple of Coding::kColumns, or at least `cols`
//     output()                where results go
//     numbers_per_token       floats that it keeps of each token of a chunk in scratch memory
//     begin(first, count, memory)    a chunk of `count` tokens: those of the calls below count from `first`
//     pack(units, token, step, steps)   writes a token's activations of some steps; zeros behind the last column
//     scales(panel, group, vector)   what a group has for a vector of rows
//     numbers(token, group)   pointer to what a group has for a token; those of the next tokens follow
//     add_group(total, sum, scales, number)   the new total
template <typename Op>
class CodedProduct {
    using Coding = typename Op::Coding;
    using Arithmetic = typename Coding::Arithmetic;

  public:
    CodedProduct(Op& op, const CodedWay& way)
        : op_(op),
          way_(way),
          steps_((op.cols + Coding::kColumns - 1) / Coding::kColumns),
          grouped_(op.group_cols < op.cols),
          group_steps_(grouped_ ? op.group_cols / Coding::kColumns : steps_) {}

    void run(int rank, int size) {
        const int64_t panels = (op_.rows + kPanelRows - 1) / kPanelRows;
        const Division mine = divide(panels, op_.tokens, kTile, rank, size);
        if (mine.panels.begin == mine.panels.end) return;
        std::byte* memory = scratch();
        decoded_ = reinterpret_cast<uint8_t*>(memory);
        totals_ = reinterpret_cast<float*>(memory + kDecodedBytes);
        float* rest = reinterpret_cast<float*>(memory + kDecodedBytes + kTotalsBytes);
        int64_t chunk = kRestBytes / 4 / (units() + op_.numbers_per_token) / kTile * kTile;
        chunk = chunk < kChunkTokens ? chunk : kChunkTokens;
        for (int64_t token = mine.tokens.begin; token < mine.tokens.end; token += chunk) {
            const int64_t left = mine.tokens.end - token;
            first_ = token;
            count_ = left < chunk ? left : chunk;
            x_ = reinterpret_cast<uint32_t*>(rest + count_ * op_.numbers_per_token);
            op_.begin(token, count_, rest);
            for (int64_t tile = 0; tile < tiles(); ++tile) pack(tile);
            if (tiles() <= way_.streamed_tiles)
                stream(mine.panels);
            else
                for (int64_t panel = mine.panels.begin; panel < mine.panels.end; ++panel) in_blocks(panel);
        }
    }

  private:
    int64_t units() const { return steps_ * Coding::kUnits; }
    int64_t tiles() const { return (count_ + kTile - 1) / kTile; }
    int64_t tile_begin(int64_t tile) const { return count_ * tile / tiles(); }
    const uint8_t* panel_weights(int64_t panel) const { return op_.weight + panel * steps_ * kStepBytes; }

    void pack(int64_t tile) {
        const int64_t begin = tile_begin(tile), tokens = tile_begin(tile + 1) - begin;
        uint32_t* to = x_ + begin * units();
        if (tokens == 1) return op_.pack(to, begin, 0, steps_);
        for (int64_t step = 0; step < steps_; step += kPackedSteps) {
            const int64_t steps = steps_ - step < kPackedSteps ? steps_ - step : kPackedSteps;
            uint32_t* rows = reinterpret_cast<uint32_t*>(decoded_);
            for (int64_t t = 0; t < tokens; ++t) op_.pack(rows + t * kPackedRow, begin + t, step, steps);
            interleave(to, rows, kPackedRow, tokens, steps * Coding::kUnits);
            to += steps * Coding::kUnits * tokens;
        }
    }

    // Few tiles: each decodes weights for itself, the first as they come from memory.
    void stream(Share panels) {
        const Coding coding = op_.coding();
        Pass pass;
        pass.panel_bytes = steps_ * kStepBytes;
        pass.grouped = grouped_;
        pass.group_steps = group_steps_;
        pass.steps = steps_;
        pass.ahead_bytes = way_.ahead_bytes;
        int64_t panel = panels.begin;
        // One token has too few sums to keep the multipliers busy: it takes two panels at a time, of two streams.
        if (count_ == 1) {
            pass.panels_apart = (panels.end - panels.begin) / 2;
            for (const int64_t end = panel + pass.panels_apart; panel < end; ++panel) {
                pass.panel = panel;
                clear(2);
                multiply<Coding, 1, 2>(op_, coding, pass, panel_weights(panel), x_, totals_);
                finish_panel(panel, totals_);
                finish_panel(panel + pass.panels_apart, totals_ + kPanelRows);
            }
            panel += pass.panels_apart;
        }
        for (; panel < panels.end; ++panel) {
            pass.panel = panel;
            clear(count_);
            for (int64_t tile = 0; tile < tiles(); ++tile) {
                const int64_t begin = tile_begin(tile), tokens = tile_begin(tile + 1) - begin;
                pass.token = begin;
                multiply_tile<Coding>(static_cast<int>(tokens), op_, coding, pass, panel_weights(panel),
                                      x_ + begin * units(), totals_ + begin * kPanelRows);
            }
            finish_panel(panel, totals_);
        }
    }

    // Many tiles: blocks of a panel are decoded, then multiplied with every tile.
    void in_blocks(int64_t panel) {
        const Decoded<Arithmetic> decoded;
        const Coding coding = op_.coding();
        const int64_t most = kBlockColumns / Coding::kColumns;
        const int64_t block = !grouped_ ? most : group_steps_ > most ? group_steps_ : most / group_steps_ * group_steps_;
        Pass pass;
        pass.panel = panel;
        pass.grouped = grouped_;
        clear(count_);
        for (int64_t step = 0; step < steps_; step += block) {
            const int64_t steps = steps_ - step < block ? steps_ - step : block;
            const uint8_t* weights = panel_weights(panel) + step * kStepBytes;
            decode_block(coding, decoded_, weights, steps);
            pass.group = grouped_ ? step / group_steps_ : 0;
            pass.steps = steps * Coding::kUnits;
            pass.group_steps = grouped_ ? group_steps_ * Coding::kUnits : pass.steps;
            // The tiles share the work of asking memory for the next block.
            pass.ahead = reinterpret_cast<const char*>(weights + steps * kStepBytes);
            const char* end = pass.ahead + steps * kStepBytes;
            for (int64_t tile = 0; tile < tiles(); ++tile) {
                const int64_t begin = tile_begin(tile), tokens = tile_begin(tile + 1) - begin;
                pass.token = begin;
                pass.ahead_step = pass.ahead < end ? 64 : 0;
                pass.next_tile = tokens * units();
                multiply_tile<Decoded<Arithmetic>>(static_cast<int>(tokens), op_, decoded, pass, decoded_,
                                                   x_ + begin * units() + step * Coding::kUnits * tokens,
                                                   totals_ + begin * kPanelRows);
                pass.ahead += pass.steps * pass.ahead_step;
            }
        }
        finish_panel(panel, totals_);
    }

    void clear(int64_t tokens) { std::memset(totals_, 0, tokens * kPanelRows * sizeof(float)); }

    void finish_panel(int64_t panel, const float* totals) const {
        for (int64_t t = 0; t < count_; ++t) {
            F32 sums[kPanelVectors];
            for (int v = 0; v < kPanelVectors; ++v) {
                sums[v] = load(totals + t * kPanelRows + v * kLanes);
                if (!grouped_) sums[v] = op_.add_group(splat(0), sums[v], op_.scales(panel, 0, v), op_.numbers(t, 0));
            }
            finish(op_.output(), first_ + t, panel * kPanelRows, sums);
        }
    }

    Op& op_;
    const CodedWay way_;
    const int64_t steps_;
    const bool grouped_;
    const int64_t group_steps_;
    int64_t first_ = 0, count_ = 0;  // tokens of the chunk
    uint8_t* decoded_ = nullptr;
    float* totals_ = nullptr;
    uint32_t* x_ = nullptr;
};

// ---- packing ----

// Calls pack_row(panel, place in the panel, row of the part, steps) for every row of a part of a matrix that begins
// at row `row`, for 64 columns at a time: so the rows of a panel write to lines that are in a cache.
template <typename PackRow>
OZONE_INLINE void pack_panels(int64_t row, int64_t rows, int64_t cols, int64_t step_cols, int rank, int size,
                              PackRow pack_row) {
    const int64_t at_a_time = 64 / step_cols;
    const Share share = share_of((cols + step_cols - 1) / step_cols, rank, size, at_a_time);
    for (int64_t first = 0; first < rows;) {
        const int64_t panel = (row + first) / kPanelRows, place = (row + first) % kPanelRows;
        const int64_t left = rows - first, count = left < kPanelRows - place ? left : kPanelRows - place;
        for (int64_t step = share.begin; step < share.end; step += at_a_time) {
            const int64_t end = step + at_a_time < share.end ? step + at_a_time : share.end;
            for (int64_t i = 0; i < count; ++i) pack_row(panel, place + i, first + i, Share{step, end});
        }
        first += count;
    }
}

// The bytes of one step of a row, of which the last may lack some.
template <int64_t step_cols>
OZONE_INLINE void copy_step(uint8_t* to, const uint8_t* row, int64_t step, int64_t cols) {
    if ((step + 1) * step_cols <= cols)
        std::memcpy(to, row + step * step_cols, step_cols);
    else
        for (int64_t c = 0; step * step_cols + c < cols; ++c) to[c] = row[step * step_cols + c];
}

}  // namespace ozone::OZONE_ISA
