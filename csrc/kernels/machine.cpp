#include "kernels/machine.h"

#include <cstddef>

#include "kernels/amx.h"
#include "kernels/share.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {
namespace {

// How far ahead of its reads a stream asks for memory, in bytes.
constexpr int64_t kAhead = 8 << 10;

// Steps of a round of products, each one multiply-add in every chain.
constexpr int64_t kSteps = 1000;

// Makes a value that the compiler knows nothing about: equal chains would be computed once.
template <typename V>
OZONE_INLINE void hide(V& value) {
#if defined(__x86_64__)
    __asm__ volatile("" : "+v"(value));
#elif defined(__aarch64__)
    __asm__ volatile("" : "+w"(value));
#else
    __asm__ volatile("" : "+m"(value));
#endif
}

// ---- multiply-adds: `Vector` is an accumulator, `kOperations` what one step does to it ----
// Written as instructions where g++ 12 would copy accumulators about or compute equal products once.

struct FloatProduct {
#if defined(__AVX2__)
    using Vector = F32;
#else
    typedef float Vector __attribute__((vector_size(16)));  // a register of every architecture
#endif
    static constexpr int64_t kOperations = sizeof(Vector) / 2;
    Vector a = Vector{} + 0.5f, b = Vector{} + 0.001f;
    // Without a fused instruction a * b would be computed once, a * sum is not. Sums tend to 0.002.
    OZONE_INLINE Vector step(Vector sum) const {
#if defined(__AVX2__)
        return fma(a, sum, b);
#else
        return a * sum + b;
#endif
    }
};

#if defined(__AVX512BF16__)
struct Bf16Product {
    using Vector = __m512;
    static constexpr int64_t kOperations = 64;
    __m512i a = _mm512_set1_epi16(0x3f00), b = _mm512_set1_epi16(0x3a80);  // 0.5 and about 0.001
    OZONE_INLINE Vector step(Vector sum) const {
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
    }
};
#else
using Bf16Product = FloatProduct;  // bfloat16 is widened
#endif

#if defined(__AVX512VNNI__)
struct Int8Product {
    using Vector = __m512i;
    static constexpr int64_t kOperations = 128;
    __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
    OZONE_INLINE Vector step(Vector sum) const {
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
    }
};
#elif defined(__AVX2__)
struct Int8Product {
    using Vector = __m256i;
    static constexpr int64_t kOperations = 64;
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
    OZONE_INLINE Vector step(Vector sum) const {
        Vector product;
        __asm__(
            "vpmaddubsw %3, %2, %0\n\t"
            "vpmaddwd %4, %0, %0\n\t"
            "vpaddd %0, %1, %1"
            : "=&v"(product), "+v"(sum)
            : "v"(a), "v"(b), "v"(ones));
        return sum;
    }
};
#else
using Int8Product = FloatProduct;
#endif

struct Result {
    int64_t operations, sum;
};

// Chains: with factors and a product they fill sixteen registers, and they are no fewer than the latency times the
// instructions a cycle. Named, since g++ 12 keeps an array of them in memory.
#define OZONE_CHAINS(EACH) \
    EACH(0) EACH(1) EACH(2) EACH(3) EACH(4) EACH(5) EACH(6) EACH(7) EACH(8) EACH(9) EACH(10) EACH(11)
constexpr int kChains = 12;

template <typename Product>
Result chains(int64_t rounds) {
    using Vector = typename Product::Vector;
    Product product;
    hide(product.a);
    hide(product.b);
    const Product factors = product;
#define OZONE_BEGIN(i) \
    Vector sum##i{};   \
    hide(sum##i);
#define OZONE_STEP(i) sum##i = factors.step(sum##i);
#define OZONE_END(i) all += sum##i;
    OZONE_CHAINS(OZONE_BEGIN)
    for (int64_t step = 0; step < rounds * kSteps; ++step) {
        OZONE_CHAINS(OZONE_STEP)
    }
    Vector all{};
    OZONE_CHAINS(OZONE_END)
    int64_t total;
    std::memcpy(&total, &all, 8);
    return {rounds * kSteps * kChains * Product::kOperations, total};
}

#if defined(__AMX_TILE__)
// Four accumulators of 16 x 16 sums, as products use them: two tiles of rows by two of columns.
Result tiles(int64_t kind, int64_t rounds) {
    load_tile_config(TileConfig{});
    alignas(64) static constexpr uint8_t zeros[16 * 64] = {};
    _tile_loadd(4, zeros, 64);
    _tile_loadd(5, zeros, 64);
    _tile_loadd(6, zeros, 64);
    _tile_loadd(7, zeros, 64);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (kind == PeakProducts::bf16) {
        for (int64_t step = 0; step < rounds * kSteps; ++step) {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    } else {
        for (int64_t step = 0; step < rounds * kSteps; ++step) {
            _tile_dpbusd(0, 4, 6);
            _tile_dpbusd(1, 4, 7);
            _tile_dpbusd(2, 5, 6);
            _tile_dpbusd(3, 5, 7);
        }
    }
    _tile_release();
    return {rounds * kSteps * 4 * (kind == PeakProducts::bf16 ? 16384 : 32768), 0};
}
#endif

Result multiply(int64_t kind, int64_t rounds) {
#if defined(__AMX_TILE__)
    if (kind != PeakProducts::f32) return tiles(kind, rounds);
#endif
    switch (kind) {
        case PeakProducts::bf16: return chains<Bf16Product>(rounds);
        case PeakProducts::int8: return chains<Int8Product>(rounds);
        default: return chains<FloatProduct>(rounds);
    }
}

}  // namespace

void run(const StreamRead& p, int rank, int size) {
    const Share share = share_of(p.bytes, rank, size, 4096);
    const std::byte* at = static_cast<const std::byte*>(p.data) + share.begin;
    const std::byte* end = static_cast<const std::byte*>(p.data) + share.end;
    I32 sums[4] = {};
    for (; end - at >= 256; at += 256) {
        for (int line = 0; line < 4; ++line) __builtin_prefetch(at + kAhead + line * 64);
        for (int i = 0; i < 256 / static_cast<int>(sizeof(I32)); ++i) {
            I32 v;
            std::memcpy(&v, at + i * sizeof(I32), sizeof v);
            sums[i % 4] |= v;
        }
    }
    for (; at < end; at += 64) {
        I32 v;
        std::memcpy(&v, at, sizeof v);
        sums[0] |= v;
    }
    const I32 all = sums[0] | sums[1] | sums[2] | sums[3];
    std::memcpy(&p.out[rank * 8], &all, 8);
}

void run(const PeakProducts& p, int rank, int) {
    const Result result = multiply(p.kind, p.rounds);
    p.out[rank * 8] = result.operations;
    p.out[rank * 8 + 1] = result.sum;
}

}  // namespace ozone::OZONE_ISA
