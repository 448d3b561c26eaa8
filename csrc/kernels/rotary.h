// What happens to queries, keys and values between their product and attention: a norm of each head where the
// model has one, rotary position embedding (Su et al., 2021), and the write to the KV cache (kv_cache.h).
//
// Tensors q, k and v are (tokens, heads, head_dim) with dense heads, and may be views of one wider matrix:
// strides are in elements. Each step rounds to the activations' type, so that a fused kernel gives the bits of
// the kernels that it stands for.
#pragma once

#include "kernels/kv_cache.h"
#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// Bytes of the cache's lines that a token's keys go to: its neighbours in a line are other positions.
constexpr int64_t scattered_bytes(int64_t kv_heads, int64_t head_dim, int64_t cache_dtype) {
    return kv_heads * head_dim * kTilePositions * cache_element_bytes(cache_dtype);
}

struct RotaryEmbedding {
    static constexpr std::string_view name = "rotary_embedding";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"q_out", Kind::output},        {"k_out", Kind::output},          {"q", Kind::input},
        {"k", Kind::input},             {"positions", Kind::input},       {"cos_sin", Kind::input},
        {"tokens", Kind::count},        {"heads", Kind::integer},         {"kv_heads", Kind::integer},
        {"head_dim", Kind::integer},    {"rotary_dim", Kind::integer},    {"q_stride", Kind::integer},
        {"q_head_stride", Kind::integer}, {"k_stride", Kind::integer},    {"k_head_stride", Kind::integer},
        {"interleaved", Kind::integer}, {"dtype", Kind::integer},
    };
    int64_t cost() const { return 2 * tokens * (heads + kv_heads) * head_dim * element_bytes(dtype); }

    void* q_out;               // (tokens, heads, head_dim), dense
    void* k_out;               // (tokens, kv_heads, head_dim), dense
    const void* q;
    const void* k;
    const int32_t* positions;  // (tokens)
    const float* cos_sin;      // (positions, rotary_dim): rotary_dim / 2 cosines, then their sines
    int64_t tokens, heads, kv_heads, head_dim, rotary_dim;
    int64_t q_stride, q_head_stride, k_stride, k_head_stride;
    int64_t interleaved;       // which columns turn together: 0: i and i + rotary_dim / 2; 1: 2i and 2i + 1
    int64_t dtype;
};

struct QkNormRotaryEmbedding {
    static constexpr std::string_view name = "qk_norm_rotary_embedding";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"q_out", Kind::output},        {"k_out", Kind::output},          {"q", Kind::input},
        {"k", Kind::input},             {"q_weight", Kind::input},        {"k_weight", Kind::input},
        {"positions", Kind::input},     {"cos_sin", Kind::input},         {"tokens", Kind::count},
        {"heads", Kind::integer},       {"kv_heads", Kind::integer},      {"head_dim", Kind::integer},
        {"rotary_dim", Kind::integer},  {"q_stride", Kind::integer},      {"q_head_stride", Kind::integer},
        {"k_stride", Kind::integer},    {"k_head_stride", Kind::integer}, {"interleaved", Kind::integer},
        {"eps", Kind::real},            {"dtype", Kind::integer},
    };
    int64_t cost() const { return 2 * tokens * (heads + kv_heads) * head_dim * element_bytes(dtype); }

    void* q_out;
    void* k_out;
    const void* q;
    const void* k;
    const float* q_weight;  // (head_dim)
    const float* k_weight;  // (head_dim)
    const int32_t* positions;
    const float* cos_sin;
    int64_t tokens, heads, kv_heads, head_dim, rotary_dim;
    int64_t q_stride, q_head_stride, k_stride, k_head_stride;
    int64_t interleaved;
    double eps;
    int64_t dtype;
};

struct KvWrite {
    static constexpr std::string_view name = "kv_write";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"k", Kind::input},             {"v", Kind::input},               {"k_cache", Kind::state},
        {"v_cache", Kind::state},       {"kv_scales", Kind::state},       {"slot_mapping", Kind::input},
        {"tokens", Kind::count},        {"kv_heads", Kind::integer},      {"head_dim", Kind::integer},
        {"k_stride", Kind::integer},    {"k_head_stride", Kind::integer}, {"v_stride", Kind::integer},
        {"v_head_stride", Kind::integer}, {"block_stride", Kind::integer}, {"head_stride", Kind::integer},
        {"block_size", Kind::integer},  {"dtype", Kind::integer},       {"cache_dtype", Kind::integer},
    };
    int64_t cost() const {
        return tokens * (4 * kv_heads * head_dim * element_bytes(dtype) +
                         scattered_bytes(kv_heads, head_dim, cache_dtype));
    }

    const void* k;
    const void* v;
    void* k_cache;
    void* v_cache;
    float* kv_scales;             // of int8 written, of e4m3 read, else null
    const int64_t* slot_mapping;  // (tokens): block * block_size + offset
    int64_t tokens, kv_heads, head_dim;
    int64_t k_stride, k_head_stride, v_stride, v_head_stride;
    int64_t block_stride, head_stride, block_size;
    int64_t dtype, cache_dtype;
};

// rotary_embedding, then kv_write of the rotated keys, which go nowhere else.
struct RotaryEmbeddingKvWrite {
    static constexpr std::string_view name = "rotary_embedding_kv_write";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"q_out", Kind::output},        {"q", Kind::input},               {"k", Kind::input},
        {"v", Kind::input},             {"positions", Kind::input},       {"cos_sin", Kind::input},
        {"k_cache", Kind::state},       {"v_cache", Kind::state},         {"kv_scales", Kind::state},
        {"slot_mapping", Kind::input},  {"tokens", Kind::count},          {"heads", Kind::integer},
        {"kv_heads", Kind::integer},    {"head_dim", Kind::integer},      {"rotary_dim", Kind::integer},
        {"q_stride", Kind::integer},    {"q_head_stride", Kind::integer}, {"k_stride", Kind::integer},
        {"k_head_stride", Kind::integer}, {"v_stride", Kind::integer},    {"v_head_stride", Kind::integer},
        {"block_stride", Kind::integer},  {"head_stride", Kind::integer},   {"block_size", Kind::integer},
        {"interleaved", Kind::integer},
        {"dtype", Kind::integer},       {"cache_dtype", Kind::integer},
    };
    int64_t cost() const {
        return tokens * (2 * (heads + 2 * kv_heads) * head_dim * element_bytes(dtype) +
                         scattered_bytes(kv_heads, head_dim, cache_dtype));
    }

    void* q_out;
    const void* q;
    const void* k;
    const void* v;
    const int32_t* positions;
    const float* cos_sin;
    void* k_cache;
    void* v_cache;
    float* kv_scales;
    const int64_t* slot_mapping;
    int64_t tokens, heads, kv_heads, head_dim, rotary_dim;
    int64_t q_stride, q_head_stride, k_stride, k_head_stride, v_stride, v_head_stride;
    int64_t block_stride, head_stride, block_size;
    int64_t interleaved;
    int64_t dtype, cache_dtype;
};

struct QkNormRotaryEmbeddingKvWrite {
    static constexpr std::string_view name = "qk_norm_rotary_embedding_kv_write";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"q_out", Kind::output},        {"q", Kind::input},               {"k", Kind::input},
        {"v", Kind::input},             {"q_weight", Kind::input},        {"k_weight", Kind::input},
        {"positions", Kind::input},     {"cos_sin", Kind::input},         {"k_cache", Kind::state},
        {"v_cache", Kind::state},       {"kv_scales", Kind::state},       {"slot_mapping", Kind::input},
        {"tokens", Kind::count},        {"heads", Kind::integer},         {"kv_heads", Kind::integer},
        {"head_dim", Kind::integer},    {"rotary_dim", Kind::integer},    {"q_stride", Kind::integer},
        {"q_head_stride", Kind::integer}, {"k_stride", Kind::integer},    {"k_head_stride", Kind::integer},
        {"v_stride", Kind::integer},    {"v_head_stride", Kind::integer}, {"block_stride", Kind::integer},
        {"head_stride", Kind::integer}, {"block_size", Kind::integer},  {"interleaved", Kind::integer},   {"eps", Kind::real},
        {"dtype", Kind::integer},       {"cache_dtype", Kind::integer},
    };
    int64_t cost() const {
        return tokens * (2 * (heads + 2 * kv_heads) * head_dim * element_bytes(dtype) +
                         scattered_bytes(kv_heads, head_dim, cache_dtype));
    }

    void* q_out;
    const void* q;
    const void* k;
    const void* v;
    const float* q_weight;
    const float* k_weight;
    const int32_t* positions;
    const float* cos_sin;
    void* k_cache;
    void* v_cache;
    float* kv_scales;
    const int64_t* slot_mapping;
    int64_t tokens, heads, kv_heads, head_dim, rotary_dim;
    int64_t q_stride, q_head_stride, k_stride, k_head_stride, v_stride, v_head_stride;
    int64_t block_stride, head_stride, block_size;
    int64_t interleaved;
    double eps;
    int64_t dtype, cache_dtype;
};

}  // namespace ozone
