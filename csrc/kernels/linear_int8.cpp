#include "kernels/linear_int8.h"

#include <iterator>

#include "kernels/dot8.h"
#include "kernels/panel.h"
#include "kernels/product.h"
#include "kernels/share.h"
#include "kernels/simd.h"
#include "runtime/team.h"
#if defined(__AMX_INT8__)
#include "kernels/amx.h"
#endif

namespace ozone::OZONE_ISA {
namespace {

constexpr int kStep = 4;  // columns
constexpr int kStepBytes = kPanelRows * kStep;

// Tokens whose sums fit in registers beside a panel's: 8 x 3 vectors of 32, or 2 x 6 of 16.
#if defined(__AVX512F__)
constexpr int kTileTokens = 8;
#else
constexpr int kTileTokens = 2;
#endif
// Tokens whose activations are to stay in a second-level cache while panels stream past.
constexpr int64_t kBlockBytes = 512 << 10;
constexpr int64_t kLeastBlockTokens = 64, kMostBlockTokens = 512;
// Steps that one tile after the other does before all go on, for each way: their weights stay in a second-level cache.
constexpr int64_t kChunkSteps[] = {256, 1024};
static_assert(std::size(kChunkSteps) == std::size(LinearInt8::ways));
// How far ahead weights are asked for where one tile reads each once.
constexpr int64_t ahead_bytes(int64_t tokens) { return tokens <= 2 ? 8 << 10 : 16 << 10; }

// Adds to the sums of kTokens tokens and a panel what `steps` steps give. Not inlined, with sums that come
// from memory and go back: so they stay in registers in between, which g++ 12 does not manage otherwise.
// Weights from `next` on are asked for on the way, kLines cache lines a step.
template <int kTokens, int kLines>
__attribute__((noinline)) void add_steps(int32_t* sums, const int8_t* x, int64_t stride, const uint8_t* weight,
                                         int64_t steps, const uint8_t* next, int64_t next_stride) {
    I32 totals[kTokens][kPanelVectors];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t)
#pragma GCC unroll 6
        for (int v = 0; v < kPanelVectors; ++v) totals[t][v] = load_ints(sums + t * kPanelRows + v * kLanes);
    const int8_t* x3 = x + 3 * stride;
    const int8_t* x6 = x + 6 * stride;
    for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 3
        for (int line = 0; line < kLines; ++line) __builtin_prefetch(next + line * 64, 0, into_cache(kTokens, kTokens > 2));
        I32 weights[kPanelVectors];
#pragma GCC unroll 6
        for (int v = 0; v < kPanelVectors; ++v) weights[v] = load_ints(weight + v * kLanes * kStep);
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
            const Activations one = broadcast((t < 3 ? x : t < 6 ? x3 : x6) + t % 3 * stride);
#pragma GCC unroll 6
            for (int v = 0; v < kPanelVectors; ++v) totals[t][v] = dot(totals[t][v], weights[v], one);
        }
        x += kStep, x3 += kStep, x6 += kStep, weight += kStepBytes, next += next_stride;
    }
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t)
#pragma GCC unroll 6
        for (int v = 0; v < kPanelVectors; ++v) store_ints(sums + t * kPanelRows + v * kLanes, totals[t][v]);
}

using AddSteps = void (*)(int32_t*, const int8_t*, int64_t, const uint8_t*, int64_t, const uint8_t*, int64_t);

template <int kLines>
OZONE_INLINE AddSteps add_steps_of(int64_t tokens) {
    switch (tokens) {
        case 1: return add_steps<1, kLines>;
#if defined(__AVX512F__)
        case 2: return add_steps<2, kLines>;
        case 3: return add_steps<3, kLines>;
        case 4: return add_steps<4, kLines>;
        case 5: return add_steps<5, kLines>;
        case 6: return add_steps<6, kLines>;
        case 7: return add_steps<7, kLines>;
#endif
    }
    return add_steps<kTileTokens, kLines>;
}

int32_t sum_of(const int8_t* x, int64_t cols) {
    int32_t total = 0;
    int64_t i = 0;
#if defined(__AVX512VNNI__)
    I32 totals = splat_int(0);
    for (; i + 64 <= cols; i += 64) totals = dot(totals, splat_int(0x01010101), {load_ints(x + i)});
    total = _mm512_reduce_add_epi32((__m512i)totals);
#endif
    for (; i < cols; ++i) total += x[i];
    return total;
}

// Tokens [first, first + tokens) with the panels [panels.begin, panels.end).
void multiply(const LinearInt8& p, int64_t first, int64_t tokens, Share panels, int way) {
    const Output to{p.out, p.bias, p.residual, p.rows, p.dtype};
    const int64_t steps = (p.cols + kStep - 1) / kStep, whole_steps = p.cols / kStep;
    const int64_t tiles = (tokens + kTileTokens - 1) / kTileTokens;
    const int64_t chunk_steps = tiles == 1 ? steps : kChunkSteps[way];
    // While one tile reads a chunk for the first time, the others find it in a cache; so that memory is never
    // idle, each asks for its part of the next chunk.
    const int64_t next_stride = kStepBytes / tiles;
    int32_t* starts = reinterpret_cast<int32_t*>(scratch());
    int32_t* sums = starts + kMostBlockTokens;
    const int8_t* x = p.x + first * p.cols;
    for (int64_t t = 0; t < tokens; ++t) starts[t] = -128 * sum_of(x + t * p.cols, p.cols);
    // What is left of each token behind its last whole step.
    const int64_t rest = p.cols - whole_steps * kStep;
    int8_t* rests = reinterpret_cast<int8_t*>(sums + kMostBlockTokens * kPanelRows);
    for (int64_t t = 0; rest && t < tokens; ++t)
        for (int64_t i = 0; i < kStep; ++i)
            rests[t * kStep + i] = i < rest ? x[t * p.cols + whole_steps * kStep + i] : 0;

    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        const int64_t row = panel * kPanelRows;
        const uint8_t* weight = p.weight + panel * steps * kStepBytes;
        for (int64_t t = 0; t < tokens; ++t)
            for (int v = 0; v < kPanelVectors; ++v)
                store_ints(sums + t * kPanelRows + v * kLanes, splat_int(starts[t]));
        int64_t done = 0;
#if defined(__AMX_INT8__)
        if (tokens > kTileRows) {
            done = whole_steps / kTileRows * kTileRows;
            add_in_tiles<TileProduct::int8>(sums, weight, x, p.cols, tokens, done, false);
        }
#endif
        for (int64_t step = done; step < whole_steps; step += chunk_steps) {
            const int64_t count = whole_steps - step < chunk_steps ? whole_steps - step : chunk_steps;
            for (int64_t tile = 0; tile < tiles; ++tile) {
                const int64_t t = tokens * tile / tiles, in_tile = tokens * (tile + 1) / tiles - t;
                const uint8_t* at = weight + step * kStepBytes;
                const uint8_t* next = tiles == 1 ? at + ahead_bytes(tokens)
                                                 : at + count * kStepBytes + tile * next_stride * count;
                const AddSteps add = tiles == 1   ? add_steps_of<kStepBytes / 64>(in_tile)
                                     : tiles == 2 ? add_steps_of<2>(in_tile)
                                                  : add_steps_of<1>(in_tile);
                add(sums + t * kPanelRows, x + t * p.cols + step * kStep, p.cols, at, count, next, next_stride);
            }
        }
        for (int64_t tile = 0; rest && tile < tiles; ++tile) {
            const int64_t t = tokens * tile / tiles, in_tile = tokens * (tile + 1) / tiles - t;
            const uint8_t* at = weight + whole_steps * kStepBytes;
            add_steps_of<1>(in_tile)(sums + t * kPanelRows, rests + t * kStep, kStep, at, 1, at, 0);
        }
        float scales[kPanelRows] = {};
        for (int64_t i = 0; i < kPanelRows && row + i < p.rows; ++i) scales[i] = p.weight_scale[row + i];
        for (int64_t t = 0; t < tokens; ++t) {
            const F32 x_scale = splat(p.x_scale[(first + t) * p.scale_stride]);
            F32 products[kPanelVectors];
            for (int v = 0; v < kPanelVectors; ++v) {
                const I32 sum = load_ints(sums + t * kPanelRows + v * kLanes);
                products[v] = to_floats(sum) * load(scales + v * kLanes) * x_scale;
            }
            finish(to, first + t, row, products);
        }
    }
}

}  // namespace

void run(const LinearInt8& p, int rank, int size, int way) {
    int64_t block = kBlockBytes / p.cols;
    block = block < kLeastBlockTokens ? kLeastBlockTokens : block > kMostBlockTokens ? kMostBlockTokens : block;
    const int64_t panels = (p.rows + kPanelRows - 1) / kPanelRows;
    const Division own = divide(panels, p.tokens, kTileTokens, rank, size);
    const int64_t tokens = own.tokens.end - own.tokens.begin, blocks = (tokens + block - 1) / block;
    for (int64_t b = 0; b < blocks; ++b) {
        const int64_t first = own.tokens.begin + tokens * b / blocks, last = own.tokens.begin + tokens * (b + 1) / blocks;
        multiply(p, first, last - first, own.panels, way);
    }
#if defined(__AMX_INT8__)
    _tile_release();
#endif
}

Stretch weights_of(const LinearInt8& p, int rank, int size) {
    const int64_t panel_bytes = (p.cols + kStep - 1) / kStep * kStepBytes;
    return panels_of(p.weight, p.rows, panel_bytes, p.tokens, kTileTokens, rank, size);
}

void run(const PackInt8& p, int rank, int size) {
    const int64_t steps = (p.cols + kStep - 1) / kStep, whole_steps = p.cols / kStep;
    const Share share = share_of(p.rows, rank, size);
    // So many columns of a panel at a time that they stay in a first-level cache while rows fill them.
    constexpr int64_t kSteps = 64;
    for (int64_t begin = p.row + share.begin, end; begin < p.row + share.end; begin = end) {
        end = (begin / kPanelRows + 1) * kPanelRows;
        end = end < p.row + share.end ? end : p.row + share.end;
        for (int64_t first = 0; first < steps; first += kSteps) {
            for (int64_t row = begin; row < end; ++row) {
                const int8_t* from = p.weight + (row - p.row) * p.stride;
                uint8_t* panel = p.packed + row / kPanelRows * steps * kStepBytes + row % kPanelRows * kStep;
                for (int64_t step = first; step < first + kSteps && step < whole_steps; ++step) {
                    uint32_t bytes;
                    std::memcpy(&bytes, from + step * kStep, kStep);
                    bytes ^= 0x80808080;
                    std::memcpy(panel + step * kStepBytes, &bytes, kStep);
                }
                for (int64_t i = whole_steps * kStep; first + kSteps >= steps && i < p.cols; ++i)
                    panel[whole_steps * kStepBytes + i % kStep] = static_cast<uint8_t>(from[i] + 128);
            }
        }
    }
}

}  // namespace ozone::OZONE_ISA
