#include "kernels/linear_fp8.h"

#include <cstddef>
#include <cstring>
#include <iterator>

#include "kernels/coded.h"

namespace ozone::OZONE_ISA {
namespace {

constexpr int kStep = 4;  // columns

// The bits of a positive e4m3 number as bfloat16, which is always a normal number: `vdpbf16ps` takes subnormal ones
// for zero.
constexpr uint32_t bfloat16_of(uint32_t code) {
    const uint32_t exponent = code >> 3, mantissa = code & 7;
    if (code == 0x7f) return 0x7fc0;
    if (exponent) return (exponent + 120) << 7 | mantissa << 4;
    if (!mantissa) return 0;
    const uint32_t power = mantissa >= 4 ? 2 : mantissa >= 2 ? 1 : 0;
    return (118 + power) << 7 | (mantissa << (7 - power) & 0x7f);
}

#if defined(__AVX512BF16__)

struct alignas(64) Tables {
    uint8_t low[128], high[128];
};
constexpr Tables tables() {
    Tables result{};
    for (uint32_t code = 0; code < 128; ++code) {
        result.low[code] = static_cast<uint8_t>(bfloat16_of(code));
        result.high[code] = static_cast<uint8_t>(bfloat16_of(code) >> 8);
    }
    return result;
}
constexpr Tables kTables = tables();

struct Fp8 {
    using Arithmetic = Pairs;
    static constexpr int kUnits = 2, kColumns = kStep;
    struct Vector {
        __m512i unit[2];
    };

    __m512i low[2], high[2];

    Fp8() {
        for (int i = 0; i < 2; ++i) {
            low[i] = _mm512_load_si512(kTables.low + 64 * i);
            high[i] = _mm512_load_si512(kTables.high + 64 * i);
        }
    }

    // Lookups ignore the sign, which then joins the high byte.
    OZONE_INLINE Vector decode(const uint8_t* from) const {
        __m512i codes = _mm512_loadu_si512(from);
        asm("" : "+v"(codes));  // once: the compiler would load what lookups overwrite again
        const __m512i lows = _mm512_permutex2var_epi8(low[0], codes, low[1]);
        const __m512i magnitudes = _mm512_permutex2var_epi8(high[0], codes, high[1]);
        const __m512i highs =
            _mm512_ternarylogic_epi32(magnitudes, codes, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);
        return {{_mm512_unpacklo_epi8(lows, highs), _mm512_unpackhi_epi8(lows, highs)}};
    }
};

// Pairs of columns, in their order; `pairs` is even.
void pack_row(uint32_t* units, const e4m3* x, int64_t cols, int64_t pairs) {
    const Fp8 coding;
    // Interleaving works in lanes of 16 bytes: put the codes where they have to be for that.
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    alignas(64) uint8_t codes[64];
    for (int64_t pair = 0; pair < pairs; pair += 32) {
        const int64_t left = cols - 2 * pair, count = left < 64 ? left : 64;
        const __m512i some = _mm512_maskz_loadu_epi8(~0ull >> (64 - count), x + 2 * pair);
        _mm512_store_si512(codes, _mm512_permutexvar_epi64(order, some));
        const Fp8::Vector decoded = coding.decode(codes);
        const int64_t units_left = pairs - pair;
        const auto first = static_cast<__mmask16>(units_left < 16 ? (1u << units_left) - 1 : 0xffff);
        _mm512_mask_storeu_epi32(units + pair, first, decoded.unit[0]);
        if (units_left <= 16) continue;
        const auto second = static_cast<__mmask16>(units_left < 32 ? (1u << (units_left - 16)) - 1 : 0xffff);
        _mm512_mask_storeu_epi32(units + pair + 16, second, decoded.unit[1]);
    }
}

#else

// Every e4m3 number as float32.
struct Table {
    uint32_t bits[256];
};
constexpr Table floats() {
    Table result{};
    for (uint32_t code = 0; code < 256; ++code)
        result.bits[code] = bfloat16_of(code & 0x7f) << 16 | (code & 0x80) << 24;
    return result;
}
[[maybe_unused]] constexpr Table kFloats = floats();

struct Fp8 {
    using Arithmetic = Floats;
    static constexpr int kUnits = 4, kColumns = kStep;
    struct Vector {
        F32 unit[4];
    };

#if defined(__AVX2__)
    // Shifted to the place of a float16's, the bits of an e4m3 are 2^-8 of its value, subnormal or not.
    static constexpr float kFactor = 256;

    OZONE_INLINE Vector decode(const uint8_t* from) const {
        // A pair of columns of all rows into each lane, then one column after the other.
        const __m256i order = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15,  //
                                               0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
        const __m256i lanes =
            _mm256_permute4x64_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), 0xd8);
        const __m256i codes = _mm256_shuffle_epi8(lanes, order), zero = _mm256_setzero_si256();
        Vector result;
        to_floats(result.unit[0], result.unit[2], _mm256_unpacklo_epi8(zero, codes));
        to_floats(result.unit[1], result.unit[3], _mm256_unpackhi_epi8(zero, codes));
        return result;
    }

    // Two columns, codes in the high bytes.
    static OZONE_INLINE void to_floats(F32& low, F32& high, __m256i words) {
        const __m256i magnitude = _mm256_and_si256(words, _mm256_set1_epi16(0x7f00));
        const __m256i nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f00));
        const __m256i shifted =
            _mm256_and_si256(_mm256_srai_epi16(words, 1), _mm256_set1_epi16(static_cast<int16_t>(0xbf80)));
        const __m256i halves = _mm256_or_si256(shifted, nan);
        low = (F32)_mm256_cvtph_ps(_mm256_castsi256_si128(halves));
        high = (F32)_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
    }
#else
    static constexpr float kFactor = 1;

    OZONE_INLINE Vector decode(const uint8_t* from) const {
        uint32_t bits[kStep][kLanes];
        for (int row = 0; row < kLanes; ++row)
            for (int column = 0; column < kStep; ++column)
                bits[column][row] = kFloats.bits[from[row / 4 * 16 + column / 2 * 8 + row % 4 * 2 + column % 2]];
        Vector result;
        std::memcpy(&result, bits, sizeof result);
        return result;
    }
#endif
};

void pack_row(uint32_t* units, const e4m3* x, int64_t cols, int64_t count) {
    float* to = reinterpret_cast<float*>(units);
    int64_t i = 0;
    for (; i + kLanes <= cols; i += kLanes) store(to + i, load(x + i) * Fp8::kFactor);
    for (; i < cols; ++i) to[i] = to_float(x[i]) * Fp8::kFactor;
    for (; i < count; ++i) to[i] = 0;
}

#endif

struct Product {
    using Coding = Fp8;
    const LinearFp8& p;
    const uint8_t* weight = p.weight;
    int64_t tokens = p.tokens, rows = p.rows, cols = p.cols;
    int64_t group_cols = p.x_groups || p.weight_groups ? LinearFp8::kGroup : p.cols;
    int64_t groups = (p.cols + LinearFp8::kGroup - 1) / LinearFp8::kGroup;
    int64_t numbers_per_token = p.x_groups ? groups : 1;
    int64_t first = 0, count = 0;
    float* x_scales = nullptr;  // (groups, tokens of the chunk) or (tokens)

    Coding coding() const { return {}; }
    Output output() const { return {p.out, p.bias, p.residual, p.rows, p.dtype}; }
    void begin(int64_t first_token, int64_t tokens_of_chunk, float* memory) {
        first = first_token;
        count = tokens_of_chunk;
        x_scales = memory;
        for (int64_t group = 0; group < numbers_per_token; ++group)
            for (int64_t t = 0; t < count; ++t)
                x_scales[group * count + t] = p.x_scale[(first + t) * p.x_scale_stride + group];
    }
    void pack(uint32_t* units, int64_t token, int64_t step, int64_t steps) const {
        const int64_t left = cols - step * kStep, some = left < steps * kStep ? left : steps * kStep;
        pack_row(units, p.x + (first + token) * cols + step * kStep, some, steps * Coding::kUnits);
    }
    OZONE_INLINE F32 scales(int64_t panel, int64_t group, int vector) const {
        if (p.weight_groups)
            return load(p.weight_scale + (panel * groups + group) * kPanelRows + vector * kLanes);
        const int64_t row = panel * kPanelRows + vector * kLanes, left = rows - row;
        if (left >= kLanes) return load(p.weight_scale + row);
        return left > 0 ? load_some(p.weight_scale + row, left) : splat(0);
    }
    OZONE_INLINE const float* numbers(int64_t token, int64_t group) const {
        return x_scales + (p.x_groups ? group * count : 0) + token;
    }
    OZONE_INLINE F32 add_group(F32 total, F32 sum, F32 scales, const float* x_scale) const {
        return fma(sum, scales * *x_scale, total);
    }
};

static_assert(std::size(kCodedWays) == std::size(LinearFp8::ways));

}  // namespace

void run(const LinearFp8& p, int rank, int size, int way) {
    Product product{p};
    CodedProduct(product, kCodedWays[way]).run(rank, size);
}

Stretch weights_of(const LinearFp8& p, int rank, int size) {
    const int64_t panel_bytes = (p.cols + kStep - 1) / kStep * kStepBytes;
    return panels_of(p.weight, p.rows, panel_bytes, p.tokens, kTile, rank, size);
}

void run(const PackFp8& p, int rank, int size) {
    pack_panels(p.row, p.rows, p.cols, kStep, rank, size, [&](int64_t panel, int64_t place, int64_t i, Share steps) {
        const uint8_t* from = p.weight + i * p.stride;
        uint8_t* to = p.packed + panel * ((p.cols + kStep - 1) / kStep) * kStepBytes + place / 4 * 16 + place % 4 * 2;
        for (int64_t step = steps.begin; step < steps.end; ++step) {
            uint8_t codes[kStep] = {};
            copy_step<kStep>(codes, from, step, p.cols);
            std::memcpy(to + step * kStepBytes, codes, 2);
            std::memcpy(to + step * kStepBytes + 8, codes + 2, 2);
        }
    });
}

}  // namespace ozone::OZONE_ISA
