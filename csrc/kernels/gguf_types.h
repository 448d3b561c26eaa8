// GGUF's block types as `linear_gguf` packs them, and how they are taken apart in registers.
//
// A unit is one block of each of a panel's 48 rows. It begins with what belongs to whole blocks; then come its
// groups of 32 columns, one in most types and eight in the K types. A group holds, for each row side by side:
//
//     scales       float16, or the K types' factors of the unit's scale, one byte each
//     minimums     likewise, where the type has them
//     fifth bits   4 bytes: bit s of byte k belongs to column 4 s + k
//     upper bits   two times 4 bytes (Q6_K): bits 2 s and 2 s + 1 of byte k belong to column 4 s + k of each half
//     low bits     four times 4 bytes: byte k of the j-th has column 4 j + k below and column 4 j + k + 16 above;
//                  or eight times 4 bytes with a column each (Q8_0)
//
// So a vector of any of them takes four bytes of neighbouring rows, as a dot product wants them, and columns are
// in four bytes a step. Weights are unsigned there: those that have no minimum are offset.
//
// The types are described in ggml's documentation and by the `gguf` package, which is the reference in tests.
#pragma once

#include <cstdint>

#include "kernels/dot8.h"
#include "kernels/linear_gguf.h"
#include "kernels/panel.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

inline constexpr int kGroupCols = 32;
inline constexpr int kGroupSteps = kGroupCols / 4;
inline constexpr int64_t kLine = kPanelRows * 4;  // bytes of one step of a panel

// What is the same in every type.
//
// bits: of a weight. offset: what weights are stored with added. has_min: whether groups have a minimum.
// groups: of a block. half_scales: whether each 16 columns have a scale of their own.
template <int bits, int offset, bool has_min, int groups, bool half_scales = false>
struct Layout {
    static constexpr int kBits = bits, kOffset = offset, kGroups = groups;
    static constexpr bool kHasMin = has_min, kHalfScales = half_scales, kIsK = groups > 1;
    static constexpr int kScales = (half_scales ? 2 : 1) + has_min;  // numbers beside a group's weights
    static constexpr int64_t kHeadBytes = kIsK ? kPanelRows * 2 * (1 + has_min) : 0;
    static constexpr int64_t kScaleBytes = kPanelRows * (kIsK ? 1 : 2);  // of one of those
    static constexpr int64_t kGroupBytes = kScales * kScaleBytes + kLine * bits;
    static constexpr int64_t kUnitBytes = kHeadBytes + groups * kGroupBytes;
};

struct Q4_0 : Layout<4, 8, false, 1> {
    static constexpr int64_t kBlockBytes = 18;
};
struct Q4_1 : Layout<4, 0, true, 1> {
    static constexpr int64_t kBlockBytes = 20;
};
struct Q5_0 : Layout<5, 16, false, 1> {
    static constexpr int64_t kBlockBytes = 22;
};
struct Q5_1 : Layout<5, 0, true, 1> {
    static constexpr int64_t kBlockBytes = 24;
};
struct Q8_0 : Layout<8, 128, false, 1> {
    static constexpr int64_t kBlockBytes = 34;
};
struct Q4_K : Layout<4, 0, true, 8> {
    static constexpr int64_t kBlockBytes = 144;
};
struct Q5_K : Layout<5, 0, true, 8> {
    static constexpr int64_t kBlockBytes = 176;
};
struct Q6_K : Layout<6, 32, false, 8, true> {
    static constexpr int64_t kBlockBytes = 210;
};

// Calls `body(Type{})` with the type that `code` names.
template <typename Body>
OZONE_INLINE void with_gguf_type(int64_t code, Body body) {
    switch (static_cast<GgufType>(code)) {
        case GgufType::q4_0: return body(Q4_0{});
        case GgufType::q4_1: return body(Q4_1{});
        case GgufType::q5_0: return body(Q5_0{});
        case GgufType::q5_1: return body(Q5_1{});
        case GgufType::q8_0: return body(Q8_0{});
        case GgufType::q4_k: return body(Q4_K{});
        case GgufType::q5_k: return body(Q5_K{});
        case GgufType::q6_k: return body(Q6_K{});
    }
}

// kLanes bytes as floats.
template <typename Byte>
OZONE_INLINE F32 load_bytes(const uint8_t* from) {
#if defined(__AVX512F__)
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return to_floats((I32)(Byte(-1) < 0 ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes)));
#elif defined(__AVX2__)
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return to_floats((I32)(Byte(-1) < 0 ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes)));
#else
    F32 x;
    for (int i = 0; i < kLanes; ++i) x[i] = static_cast<Byte>(from[i]);
    return x;
#endif
}

OZONE_INLINE F32 load_halves(const uint8_t* from) { return load(reinterpret_cast<const f16*>(from)); }

// Bits of all bytes at once. No bit crosses from one byte to another that the mask leaves in.
OZONE_INLINE I32 masked(I32 x, int mask) { return x & splat_int(mask * 0x01010101); }
OZONE_INLINE I32 shifted(I32 x, int left) {
    return left >= 0 ? (I32)((U32)x << left) : (I32)((U32)x >> -left);
}

// kLanes rows of one group, from row `row` of the panel on.
template <typename Type>
struct Rows {
    const uint8_t *unit, *group;
    int row;
    I32 high[2];  // fifth or upper bits

    OZONE_INLINE Rows(const uint8_t* unit_, int part, int row_)
        : unit(unit_), group(unit_ + Type::kHeadBytes + part * Type::kGroupBytes), row(row_) {
        for (int i = 0; i < kHighLines; ++i) high[i] = line(i);
    }

    // Of all columns, or of each half.
    OZONE_INLINE F32 scale(int half) const {
        const uint8_t* own = group + half * Type::kScaleBytes;
        if constexpr (!Type::kIsK) return load_halves(own + row * 2);
        if constexpr (Type::kHalfScales) return load_halves(unit + row * 2) * load_bytes<int8_t>(own + row);
        return load_halves(unit + row * 2) * load_bytes<uint8_t>(own + row);
    }

    // What is added to every weight, where the type has it.
    OZONE_INLINE F32 min() const {
        const uint8_t* own = group + Type::kScaleBytes;
        if constexpr (!Type::kIsK) return load_halves(own + row * 2);
        // A minimum of the K types is subtracted.
        return -load_halves(unit + kPanelRows * 2 + row * 2) * load_bytes<uint8_t>(own + row);
    }

    // The four columns of a step, unsigned bytes.
    OZONE_INLINE I32 weights(int step) const {
        if constexpr (Type::kBits == 8) return line(step);
        const I32 pair = line(kHighLines + step % 4);
        I32 weight = masked(step < 4 ? pair : shifted(pair, -4), 0x0f);
        if constexpr (Type::kBits == 5) weight |= masked(shifted(high[0], 4 - step), 0x10);
        if constexpr (Type::kBits == 6) weight |= masked(shifted(high[step / 4], 4 - step % 4 * 2), 0x30);
        return weight;
    }

  private:
    static constexpr int kHighLines = Type::kBits < 8 ? Type::kBits - 4 : 0;

    OZONE_INLINE I32 line(int i) const {
        return load_ints(group + Type::kScales * Type::kScaleBytes + i * kLine + row * 4);
    }
};

OZONE_INLINE uint32_t word(const void* from) {
    uint32_t bytes;
    std::memcpy(&bytes, from, 4);
    return bytes;
}

// One row of one group as numbers.
template <typename Type>
void dequantize(float* values, const uint8_t* unit, int64_t group, int64_t row) {
    const auto half = [](const uint8_t* from) {
        f16 value;
        std::memcpy(&value, from, sizeof value);
        return to_float(value);
    };
    const uint8_t* at = unit + Type::kHeadBytes + group * Type::kGroupBytes;
    const uint8_t* second = at + Type::kScaleBytes;
    float scales[2], min = 0;
    if constexpr (!Type::kIsK) {
        scales[0] = scales[1] = half(at + row * 2);
        if (Type::kHasMin) min = half(second + row * 2);
    } else if constexpr (Type::kHalfScales) {
        scales[0] = half(unit + row * 2) * static_cast<int8_t>(at[row]);
        scales[1] = half(unit + row * 2) * static_cast<int8_t>(second[row]);
    } else {
        scales[0] = scales[1] = half(unit + row * 2) * at[row];
        min = -(half(unit + kPanelRows * 2 + row * 2) * second[row]);
    }
    const uint8_t* high = at + Type::kScales * Type::kScaleBytes + row * 4;
    const uint8_t* low = Type::kBits == 8 ? high : high + (Type::kBits - 4) * kLine;
    uint32_t weights[kGroupSteps];
#pragma GCC unroll 8
    for (int step = 0; step < kGroupSteps; ++step) {
        uint32_t weight = word(low + (Type::kBits == 8 ? step : step % 4) * kLine);
        if constexpr (Type::kBits < 8) weight = weight >> (step < 4 ? 0 : 4) & 0x0f0f0f0f;
        if constexpr (Type::kBits == 5) weight |= (word(high) >> step & 0x01010101) << 4;
        if constexpr (Type::kBits == 6) weight |= (word(high + step / 4 * kLine) >> step % 4 * 2 & 0x03030303) << 4;
        weights[step] = weight;
    }
    uint8_t bytes[kGroupCols];
    std::memcpy(bytes, weights, sizeof bytes);
    for (int i = 0; i < kGroupCols; i += kLanes) {
        const F32 integers = load_bytes<uint8_t>(bytes + i) - splat(static_cast<float>(Type::kOffset));
        store(values + i, integers * splat(scales[i / (kGroupCols / 2)]) + splat(min));
    }
}

// What a block of a K type in a GGUF file says of its group `group`.
struct BlockGroup {
    uint8_t weights[kGroupCols];  // unsigned
    uint8_t scales[2];            // factors of the block's scale, or of its scale and its minimum
};

template <typename Type>
OZONE_INLINE BlockGroup block_group(const uint8_t* block, int group) {
    BlockGroup g;
    if constexpr (Type::kHalfScales) {
        // 128 bytes of low and 64 of upper bits, in halves of four groups; 16 scales; the block's scale.
        const int half = group / 4, quarter = group % 4;
        const uint8_t* low = block + half * 64 + quarter % 2 * 32;
        const uint8_t* high = block + 128 + half * 32;
        for (int i = 0; i < kGroupCols; ++i)
            g.weights[i] = (low[i] >> quarter / 2 * 4 & 15) | (high[i] >> quarter * 2 & 3) << 4;
        g.scales[0] = block[192 + group * 2];
        g.scales[1] = block[193 + group * 2];
    } else {
        // Scale and minimum of the block, 12 bytes of 6-bit factors, fifth bits, low bits: pairs of groups.
        const uint8_t* factors = block + 4;
        if (group < 4) {
            g.scales[0] = factors[group] & 63;
            g.scales[1] = factors[group + 4] & 63;
        } else {
            g.scales[0] = (factors[group + 4] & 15) | factors[group - 4] >> 6 << 4;
            g.scales[1] = factors[group + 4] >> 4 | factors[group] >> 6 << 4;
        }
        const uint8_t* low = block + (Type::kBits == 5 ? 48 : 16) + group / 2 * 32;
        for (int i = 0; i < kGroupCols; ++i) g.weights[i] = low[i] >> group % 2 * 4 & 15;
        if constexpr (Type::kBits == 5)
            for (int i = 0; i < kGroupCols; ++i) g.weights[i] |= (block[16 + i] >> group & 1) << 4;
    }
    return g;
}

// Bits i of 32 as bits i / 4 of bytes i % 4.
OZONE_INLINE uint32_t by_bytes(uint32_t bits) {
    uint32_t result = 0;
#pragma GCC unroll 8
    for (int step = 0; step < kGroupSteps; ++step)
        result |= ((bits >> step * 4 & 15) * 0x00204081 & 0x01010101) << step;  // a bit to each byte
    return result;
}

// Writes four bytes of a line and goes to the next.
OZONE_INLINE void put(uint8_t*& line, uint32_t bytes) {
    std::memcpy(line, &bytes, 4);
    line += kLine;
}

template <typename Type>
OZONE_INLINE void pack_simple_block(uint8_t* unit, int64_t row, const uint8_t* block) {
    // Scale, minimum, fifth bits, low bits: the first 16 columns below, the others above.
    for (int i = 0; i < Type::kScales; ++i)
        std::memcpy(unit + i * Type::kScaleBytes + row * 2, block + i * 2, 2);
    const uint8_t* from = block + Type::kScales * 2;
    uint8_t* line = unit + Type::kScales * Type::kScaleBytes + row * 4;
    if constexpr (Type::kBits == 5) {
        put(line, by_bytes(word(from)));
        from += 4;
    }
#pragma GCC unroll 8
    for (int i = 0; i < (Type::kBits == 8 ? 8 : 4); ++i)
        put(line, word(from + i * 4) ^ (Type::kBits == 8 ? 0x80808080 : 0));
}

template <typename Type>
OZONE_INLINE void pack_k_block(uint8_t* unit, int64_t row, const uint8_t* block) {
    constexpr int64_t kHead = Type::kHalfScales ? 208 : 0;
    for (int i = 0; i < 1 + Type::kHasMin; ++i)
        std::memcpy(unit + i * kPanelRows * 2 + row * 2, block + kHead + i * 2, 2);
    for (int group = 0; group < Type::kGroups; ++group) {
        const BlockGroup g = block_group<Type>(block, group);
        uint8_t* at = unit + Type::kHeadBytes + group * Type::kGroupBytes;
        for (int i = 0; i < Type::kScales; ++i) at[i * kPanelRows + row] = g.scales[i];
        uint8_t* line = at + Type::kScales * kPanelRows + row * 4;
        uint32_t weights[kGroupSteps];
        std::memcpy(weights, g.weights, sizeof weights);
        if constexpr (Type::kBits == 5) {
            uint32_t fifth = 0;
            for (int step = 0; step < kGroupSteps; ++step) fifth |= (weights[step] >> 4 & 0x01010101) << step;
            put(line, fifth);
        }
        if constexpr (Type::kBits == 6) {
            for (int half = 0; half < 2; ++half) {
                uint32_t upper = 0;
                for (int i = 0; i < 4; ++i) upper |= (weights[half * 4 + i] >> 4 & 0x03030303) << 2 * i;
                put(line, upper);
            }
        }
        for (int i = 0; i < 4; ++i) put(line, (weights[i] & 0x0f0f0f0f) | (weights[i + 4] & 0x0f0f0f0f) << 4);
    }
}

// Puts a block of a GGUF file into a unit, as the row `row` of its panel.
template <typename Type>
OZONE_INLINE void pack_block(uint8_t* unit, int64_t row, const uint8_t* block) {
    if constexpr (Type::kIsK)
        pack_k_block<Type>(unit, row, block);
    else
        pack_simple_block<Type>(unit, row, block);
}

}  // namespace ozone::OZONE_ISA
