// Products of unsigned by signed bytes, summed by fours in 32 bits.
//
// A lane of I32 holds four bytes: of a weight row (unsigned) or of an activation (signed, the same in every
// lane). Sums are exact whatever the bytes; they wrap modulo 2^32.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

typedef int16_t I16 __attribute__((vector_size(kLanes * 4)));
typedef uint16_t U16 __attribute__((vector_size(kLanes * 4)));
typedef uint32_t U32 __attribute__((vector_size(kLanes * 4)));

OZONE_INLINE I32 splat_int(int32_t x) { return I32{} + x; }

OZONE_INLINE I32 load_ints(const void* from) {
    I32 x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
OZONE_INLINE void store_ints(void* to, I32 x) { std::memcpy(to, &x, sizeof x); }

OZONE_INLINE F32 to_floats(I32 x) { return __builtin_convertvector(x, F32); }

// The activations of one step, as `dot` takes them.
struct Activations {
#if defined(__AVX512VNNI__)
    I32 bytes;
#else
    I16 even, odd;  // bytes 0 and 2, and bytes 1 and 3 of each lane
#endif
};

// The four bytes at `from`, in every lane.
OZONE_INLINE Activations broadcast(const int8_t* from) {
    int32_t bytes;
    std::memcpy(&bytes, from, 4);
    const I32 all = splat_int(bytes);
#if defined(__AVX512VNNI__)
    return {all};
#else
    return {(I16)((U16)all << 8) >> 8, (I16)all >> 8};
#endif
}

// total + the sum of the products of a lane's four bytes.
OZONE_INLINE I32 dot(I32 total, I32 weights, const Activations& x) {
#if defined(__AVX512VNNI__)
    return (I32)_mm512_dpbusd_epi32((__m512i)total, (__m512i)weights, (__m512i)x.bytes);
#else
    const I16 even = (I16)((U16)weights & 0xff), odd = (I16)((U16)weights >> 8);
#if defined(__AVX2__)
    total += (I32)_mm256_madd_epi16((__m256i)even, (__m256i)x.even);
    return total + (I32)_mm256_madd_epi16((__m256i)odd, (__m256i)x.odd);
#else
    // A product of two bytes fits in 16 bits.
    const I32 a = (I32)(even * x.even), b = (I32)(odd * x.odd);
    return total + (a << 16 >> 16) + (a >> 16) + (b << 16 >> 16) + (b >> 16);
#endif
#endif
}

// total + the sums of the products of kSteps steps, of weights of kBits bits: the same as so many times `dot`,
// and faster where that needs several instructions.
template <int kBits, int kSteps>
OZONE_INLINE I32 dot_steps(I32 total, const I32* weights, const int8_t* x) {
#if !defined(__AVX512VNNI__)
    if constexpr (kBits < 8) {
        // A product of narrow weights takes 7 + kBits bits and a sign: so many pairs fit in 16.
        constexpr int kNarrowSteps = 1 << (7 - kBits);
        static_assert(kSteps % kNarrowSteps == 0);
        for (int first = 0; first < kSteps; first += kNarrowSteps) {
            I16 narrow = {};
            for (int s = first; s < first + kNarrowSteps; ++s) {
#if defined(__AVX2__)
                int32_t bytes;
                std::memcpy(&bytes, x + s * 4, 4);
                narrow += (I16)_mm256_maddubs_epi16((__m256i)weights[s], _mm256_set1_epi32(bytes));
#else
                const Activations one = broadcast(x + s * 4);
                narrow += (I16)((U16)weights[s] & 0xff) * one.even + (I16)((U16)weights[s] >> 8) * one.odd;
#endif
            }
#if defined(__AVX2__)
            total += (I32)_mm256_madd_epi16((__m256i)narrow, _mm256_set1_epi16(1));
#else
            total += ((I32)narrow << 16 >> 16) + ((I32)narrow >> 16);
#endif
        }
        return total;
    }
#endif
#pragma GCC unroll 8
    for (int s = 0; s < kSteps; ++s) total = dot(total, weights[s], broadcast(x + s * 4));
    return total;
}

}  // namespace ozone::OZONE_ISA
