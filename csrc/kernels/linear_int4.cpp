#include "kernels/linear_int4.h"

#include <cstddef>
#include <cstring>
#include <iterator>

#include "kernels/coded.h"

namespace ozone::OZONE_ISA {
namespace {

constexpr int kStep = 8;  // columns
constexpr int kZero = 8;  // subtracted from every integer, so that sums are small

// Weights for float32 activations: a double word is a row, columns 0, 2, 4, 6 in its low half.
struct Int4Floats {
    using Arithmetic = Floats;
    static constexpr int kUnits = 8, kColumns = kStep;
    struct Vector {
        F32 unit[8];
    };

    OZONE_INLINE Vector decode(const uint8_t* from) const {
        I32 words;
        std::memcpy(&words, from, sizeof words);
        Vector result;
#pragma GCC unroll 8
        for (int column = 0; column < kStep; ++column) {
            const int shift = column / 2 * 4 + column % 2 * 16;
#if defined(__AVX512F__)
            const __m512 integers = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
            result.unit[column] = (F32)_mm512_permutexvar_ps(_mm512_srli_epi32((__m512i)words, shift), integers);
#else
            result.unit[column] = __builtin_convertvector(((words >> shift) & 15) - kZero, F32);
#endif
        }
        return result;
    }
};

template <typename T>
void pack_row(const Int4Floats&, uint32_t* units, const T* x, int64_t cols, int64_t count) {
    float* to = reinterpret_cast<float*>(units);
    int64_t i = 0;
    for (; i + kLanes <= cols; i += kLanes) store(to + i, load(x + i));
    for (; i < cols; ++i) to[i] = to_float(x[i]);
    for (; i < count; ++i) to[i] = 0;
}

#if defined(__AVX512BF16__)
struct Int4Pairs {
    using Arithmetic = Pairs;
    static constexpr int kUnits = 4, kColumns = kStep;
    struct Vector {
        __m512i unit[4];
    };

    // The integers as bfloat16. A lookup takes five bits of a word: what is above the four of one has to do
    // nothing to the result.
    alignas(64) static constexpr uint16_t kTable[32] = {
        0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,  // -8 to -1
        0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,  // 0 to 7
        0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,  //
        0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
    };
    __m512i integers = _mm512_load_si512(kTable);

    OZONE_INLINE Vector decode(const uint8_t* from) const {
        const __m512i words = _mm512_loadu_si512(from);
        Vector result;
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; ++pair)
            result.unit[pair] = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4 * pair), integers);
        return result;
    }
};

template <typename T>  // bf16
void pack_row(const Int4Pairs&, uint32_t* units, const T* x, int64_t cols, int64_t count) {
    std::memcpy(units, x, cols * 2);
    std::memset(reinterpret_cast<char*>(units) + cols * 2, 0, count * 4 - cols * 2);
}

#endif

struct GroupScales {
    F32 scale, offset;  // offset: how far the zero point is from kZero
};

template <typename C>
struct Product {
    using Coding = C;
    const LinearInt4& p;
    const uint8_t* weight = p.weight;
    int64_t tokens = p.tokens, rows = p.rows, cols = p.cols, group_cols = p.group_cols;
    int64_t groups = (p.cols + p.group_cols - 1) / p.group_cols;
    int64_t numbers_per_token = p.zeros ? groups : 0;
    int64_t first = 0, count = 0;
    float* sums = nullptr;  // of the activations, negative: (groups, tokens of the chunk)

    Coding coding() const { return {}; }
    Output output() const { return {p.out, p.bias, p.residual, p.rows, p.dtype}; }
    void begin(int64_t first_token, int64_t tokens_of_chunk, float* memory) {
        first = first_token;
        count = tokens_of_chunk;
        sums = memory;
        if (!p.zeros) return;
        with_type(p.dtype, [&]<typename T>(T) {
            for (int64_t token = 0; token < count; ++token)
                for (int64_t group = 0; group < groups; ++group) {
                    const int64_t begin = group * group_cols, left = cols - begin;
                    const T* x = static_cast<const T*>(p.x) + (first + token) * p.x_stride + begin;
                    sums[group * count + token] = -sum_of(x, left < group_cols ? left : group_cols);
                }
        });
    }
    void pack(uint32_t* units, int64_t token, int64_t step, int64_t steps) const {
        const int64_t left = cols - step * kStep, some = left < steps * kStep ? left : steps * kStep;
        with_type(p.dtype, [&]<typename T>(T) {
            const T* x = static_cast<const T*>(p.x) + (first + token) * p.x_stride + step * kStep;
            pack_row(coding(), units, x, some, steps * Coding::kUnits);
        });
    }
    template <typename T>
    static float sum_of(const T* x, int64_t count) {
        F32 total = splat(0);
        int64_t i = 0;
        for (; i + kLanes <= count; i += kLanes) total += load(x + i);
        total += load_some(x + i, count - i);
        return sum(total);
    }
    OZONE_INLINE GroupScales scales(int64_t panel, int64_t group, int vector) const {
        const int64_t at = (panel * groups + group) * kPanelRows + vector * kLanes;
        GroupScales result{splat(0), splat(0)};
        with_type(p.scale_dtype, [&]<typename S>(S) { result.scale = load(static_cast<const S*>(p.scales) + at); });
        if (p.zeros) result.offset = __builtin_convertvector(widen(p.zeros + at) - kZero, F32);
        return result;
    }
    OZONE_INLINE const float* numbers(int64_t token, int64_t group) const { return sums + group * count + token; }
    OZONE_INLINE F32 add_group(F32 total, F32 sum, const GroupScales& scales, const float* group_sum) const {
        if (p.zeros) sum = fma(scales.offset, splat(*group_sum), sum);
        return fma(sum, scales.scale, total);
    }
};

static_assert(std::size(kCodedWays) == std::size(LinearInt4::ways));

}  // namespace

void run(const LinearInt4& p, int rank, int size, int way) {
#if defined(__AVX512BF16__)
    if (p.dtype == static_cast<int64_t>(DType::bf16)) {
        Product<Int4Pairs> product{p};
        return CodedProduct(product, kCodedWays[way]).run(rank, size);
    }
#endif
    Product<Int4Floats> product{p};
    CodedProduct(product, kCodedWays[way]).run(rank, size);
}

Stretch weights_of(const LinearInt4& p, int rank, int size) {
    const int64_t panel_bytes = (p.cols + kStep - 1) / kStep * kStepBytes;
    return panels_of(p.weight, p.rows, panel_bytes, p.tokens, kTile, rank, size);
}

void run(const PackInt4& p, int rank, int size) {
    pack_panels(p.row, p.rows, p.cols, kStep, rank, size, [&](int64_t panel, int64_t place, int64_t i, Share steps) {
        const uint8_t* from = p.weight + i * p.stride;
        uint8_t* to = p.packed + (panel * ((p.cols + kStep - 1) / kStep) * kPanelRows + place) * 4;
        for (int64_t step = steps.begin; step < steps.end; ++step) {
            uint8_t columns[kStep] = {}, words[4];
            copy_step<kStep>(columns, from, step, p.cols);
            for (int byte = 0; byte < 4; ++byte) {
                const int column = byte % 2 * 4 + byte / 2;
                words[byte] = static_cast<uint8_t>(columns[column] | columns[column + 2] << 4);
            }
            std::memcpy(to + step * kStepBytes, words, 4);
        }
    });
}

}  // namespace ozone::OZONE_ISA
