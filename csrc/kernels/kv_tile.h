// Tiles of the KV cache (kv_cache.h), as kernels address them.
#pragma once

#include "kernels/kv_cache.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

template <typename C>
inline constexpr int64_t kPack = sizeof(C) == 1 ? 4 : 1;
template <>
inline constexpr int64_t kPack<bf16> = 2;

// Columns of a head as the cache has them.
OZONE_INLINE int64_t padded(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

// Calls `body(C{})` with C the element type of a cache.
template <typename Body>
OZONE_INLINE void with_cache_type(int64_t code, Body body) {
    switch (static_cast<CacheType>(code)) {
        case CacheType::f32: return body(float{});
        case CacheType::bf16: return body(bf16{});
        case CacheType::f16: return body(f16{});
        case CacheType::int8: return body(int8_t{});
        case CacheType::e4m3: return body(e4m3{});
    }
}

}  // namespace ozone::OZONE_ISA
