#include "kernels/rotary.h"

#include <cstddef>

#include "kernels/kv_tile.h"
#include "kernels/rms.h"
#include "kernels/share.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {
namespace {

constexpr int64_t kMaxHeadDim = 1024;  // as in ozone/ops/kv_cache.py

// ---- one head ----

struct Rotation {
    const float* cos_sin;  // of one position
    int64_t rotary_dim;
    bool interleaved;
};

template <typename T>
OZONE_INLINE void turn(T* out_a, T* out_b, F32 a, F32 b, F32 cos, F32 sin, int64_t count) {
    const F32 new_a = a * cos - b * sin, new_b = b * cos + a * sin;
    if (count == kLanes) {
        store(out_a, new_a);
        store(out_b, new_b);
    } else {
        store_some(out_a, new_a, count);
        store_some(out_b, new_b, count);
    }
}

template <typename T>
OZONE_INLINE void rotate(T* out, const T* x, int64_t head_dim, const Rotation& by) {
    const int64_t half = by.rotary_dim / 2;
    const float *cos = by.cos_sin, *sin = by.cos_sin + half;
    if (by.interleaved) {
        for (int64_t i = 0; i < half; ++i) {
            const float a = to_float(x[2 * i]), b = to_float(x[2 * i + 1]);
            out[2 * i] = from_float<T>(a * cos[i] - b * sin[i]);
            out[2 * i + 1] = from_float<T>(b * cos[i] + a * sin[i]);
        }
    } else {
        const T* second = x + half;
        int64_t i = 0;
        for (; i + kLanes <= half; i += kLanes)
            turn(out + i, out + half + i, load(x + i), load(second + i), load(cos + i), load(sin + i), kLanes);
        if (const int64_t left = half - i)
            turn(out + i, out + half + i, load_some(x + i, left), load_some(second + i, left),
                 load_some(cos + i, left), load_some(sin + i, left), left);
    }
    if (by.rotary_dim < head_dim)
        std::memcpy(out + by.rotary_dim, x + by.rotary_dim, (head_dim - by.rotary_dim) * sizeof(T));
}

// `x` normalized where there is a weight, then rotated.
template <typename T>
OZONE_INLINE void prepare(T* out, const T* x, int64_t head_dim, const float* weight, double eps,
                          const Rotation& by) {
    if (!weight) return rotate(out, x, head_dim, by);
    T normalized[kMaxHeadDim];
    normalize(normalized, x, weight, head_dim, eps);
    rotate(out, normalized, head_dim, by);
}

// ---- writing to the cache ----

// One head of one token as the cache's type, padded with zeros to whole tiles.
template <typename C>
struct Codes {
    C values[kMaxHeadDim];
};

template <typename T>
OZONE_INLINE F32 load_to(const T* x, int64_t i, int64_t head_dim) {
    return i + kLanes <= head_dim ? load(x + i) : load_some(x + i, head_dim > i ? head_dim - i : 0);
}

// Converts, each number divided by `scale` where it is not 1.
template <typename C, typename T>
OZONE_INLINE void encode(Codes<C>& codes, const T* x, int64_t head_dim, float scale) {
    for (int64_t i = 0; i < padded(head_dim); i += kLanes) {
        const F32 v = load_to(x, i, head_dim);
        store(codes.values + i, scale == 1.0f ? v : v / scale);
    }
}

// int8: the largest magnitude becomes 127. Returns the scale; of a head with a NaN or an infinity it is NaN.
template <typename T>
OZONE_INLINE float encode_int8(Codes<int8_t>& codes, const T* x, int64_t head_dim) {
    F32 most = splat(0), poison = splat(0);
    for (int64_t i = 0; i < padded(head_dim); i += kLanes) {
        const F32 v = load_to(x, i, head_dim);
        most = max(most, abs(v));
        poison += v * 0.0f;
    }
    // Heads of zeros have a scale too, as in `quantize`.
    const float scale = scalar_max(largest(most) / 127.0f, 0x1p-126f) + sum(poison);
    for (int64_t i = 0; i < padded(head_dim); i += kLanes)
        store(codes.values + i, load_to(x, i, head_dim) / scale);
    return scale;
}

struct Cache {
    void* keys;
    void* values;
    float* scales;
    int64_t block_stride, head_stride, block_size, kv_heads;
};

// Positions that share a dot product's step may belong to different ranks: every store writes single elements,
// never a neighbour's.
template <typename C>
OZONE_INLINE void scatter_key(C* tile, int64_t position, const Codes<C>& codes, int64_t columns) {
    for (int64_t i = 0; i < columns; i += kPack<C>)
        std::memcpy(tile + i * kTilePositions + position * kPack<C>, codes.values + i, kPack<C> * sizeof(C));
}

template <typename C>
OZONE_INLINE void scatter_value(C* tile, int64_t position, const Codes<C>& codes, int64_t columns) {
    C* to = tile + position / kPack<C> * kPack<C> * columns + position % kPack<C>;
    for (int64_t i = 0; i < columns; ++i) to[i * kPack<C>] = codes.values[i];
}

template <typename C, typename T>
OZONE_INLINE void write(const Cache& cache, int64_t slot, int64_t kv_head, const T* k, const T* v,
                        int64_t head_dim) {
    const int64_t columns = padded(head_dim), tiles = cache.block_size / kTilePositions;
    const int64_t block = slot / cache.block_size, offset = slot % cache.block_size;
    const int64_t tile = offset / kTilePositions, position = offset % kTilePositions;
    const int64_t at =
        block * cache.block_stride + kv_head * cache.head_stride + tile * kTilePositions * columns;
    C *key_tile = static_cast<C*>(cache.keys) + at, *value_tile = static_cast<C*>(cache.values) + at;
    Codes<C> codes;
    if constexpr (sizeof(C) == 1 && !__is_same(C, e4m3)) {
        float* scales = cache.scales + ((block * cache.kv_heads + kv_head) * tiles + tile) * 2 * kTilePositions;
        scales[position] = encode_int8(codes, k, head_dim);
        scatter_key(key_tile, position, codes, columns);
        scales[kTilePositions + position] = encode_int8(codes, v, head_dim);
        scatter_value(value_tile, position, codes, columns);
    } else {
        const bool scaled = sizeof(C) == 1;
        encode(codes, k, head_dim, scaled ? cache.scales[0] : 1.0f);
        scatter_key(key_tile, position, codes, columns);
        encode(codes, v, head_dim, scaled ? cache.scales[1] : 1.0f);
        scatter_value(value_tile, position, codes, columns);
    }
}

// ---- all heads ----

struct Heads {
    const void* data;
    int64_t stride, head_stride, count;

    template <typename T>
    OZONE_INLINE const T* at(int64_t token, int64_t head) const {
        return static_cast<const T*>(data) + token * stride + head * head_stride;
    }
};

struct Rotary {
    const int32_t* positions;
    const float* cos_sin;
    int64_t rotary_dim, interleaved;

    OZONE_INLINE Rotation of(int64_t token) const {
        return {cos_sin + positions[token] * rotary_dim, rotary_dim, interleaved != 0};
    }
};

template <typename T>
void rotate_heads(void* to, const Heads& x, const float* weight, double eps, int64_t head_dim, const Rotary& by,
                  Share tokens) {
    for (int64_t token = tokens.begin; token < tokens.end; ++token) {
        const Rotation rotation = by.of(token);
        for (int64_t head = 0; head < x.count; ++head)
            prepare(static_cast<T*>(to) + (token * x.count + head) * head_dim, x.at<T>(token, head), head_dim,
                    weight, eps, rotation);
    }
}

// Keys go through `prepare` first where `by` is not null.
template <typename T>
void write_heads(const Cache& cache, int64_t cache_dtype, const int64_t* slots, const Heads& k, const Heads& v,
                 const float* weight, double eps, int64_t head_dim, const Rotary* by, Share tokens) {
    with_cache_type(cache_dtype, [&]<typename C>(C) {
        for (int64_t token = tokens.begin; token < tokens.end; ++token)
            for (int64_t head = 0; head < k.count; ++head) {
                T prepared[kMaxHeadDim];
                const T* key = k.at<T>(token, head);
                if (by) {
                    prepare(prepared, key, head_dim, weight, eps, by->of(token));
                    key = prepared;
                }
                write<C>(cache, slots[token], head, key, v.at<T>(token, head), head_dim);
            }
    });
}

template <typename P>
Heads queries(const P& p) {
    return {p.q, p.q_stride, p.q_head_stride, p.heads};
}
template <typename P>
Heads keys(const P& p) {
    return {p.k, p.k_stride, p.k_head_stride, p.kv_heads};
}
template <typename P>
Heads values(const P& p) {
    return {p.v, p.v_stride, p.v_head_stride, p.kv_heads};
}
template <typename P>
Rotary rotary(const P& p) {
    return {p.positions, p.cos_sin, p.rotary_dim, p.interleaved};
}
template <typename P>
Cache cache(const P& p) {
    return {p.k_cache, p.v_cache, p.kv_scales, p.block_stride, p.head_stride, p.block_size, p.kv_heads};
}

template <typename P>
void rotate_both(const P& p, const float* q_weight, const float* k_weight, double eps, int rank, int size) {
    const Share tokens = share_of(p.tokens, rank, size);
    with_type(p.dtype, [&]<typename T>(T) {
        rotate_heads<T>(p.q_out, queries(p), q_weight, eps, p.head_dim, rotary(p), tokens);
        rotate_heads<T>(p.k_out, keys(p), k_weight, eps, p.head_dim, rotary(p), tokens);
    });
}

template <typename P>
void rotate_and_write(const P& p, const float* q_weight, const float* k_weight, double eps, int rank, int size) {
    const Share tokens = share_of(p.tokens, rank, size);
    const Rotary by = rotary(p);
    with_type(p.dtype, [&]<typename T>(T) {
        rotate_heads<T>(p.q_out, queries(p), q_weight, eps, p.head_dim, by, tokens);
        write_heads<T>(cache(p), p.cache_dtype, p.slot_mapping, keys(p), values(p), k_weight, eps, p.head_dim,
                       &by, tokens);
    });
}

}  // namespace

void run(const RotaryEmbedding& p, int rank, int size) { rotate_both(p, nullptr, nullptr, 0, rank, size); }

void run(const QkNormRotaryEmbedding& p, int rank, int size) {
    rotate_both(p, p.q_weight, p.k_weight, p.eps, rank, size);
}

void run(const KvWrite& p, int rank, int size) {
    const Share tokens = share_of(p.tokens, rank, size);
    with_type(p.dtype, [&]<typename T>(T) {
        write_heads<T>(cache(p), p.cache_dtype, p.slot_mapping, keys(p), values(p), nullptr, 0, p.head_dim,
                       nullptr, tokens);
    });
}

void run(const RotaryEmbeddingKvWrite& p, int rank, int size) {
    rotate_and_write(p, nullptr, nullptr, 0, rank, size);
}

void run(const QkNormRotaryEmbeddingKvWrite& p, int rank, int size) {
    rotate_and_write(p, p.q_weight, p.k_weight, p.eps, rank, size);
}

}  // namespace ozone::OZONE_ISA
