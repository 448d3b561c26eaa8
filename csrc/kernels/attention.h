// Causal attention over the paged KV cache (kv_cache.h), after Dao et al. (2022) and Kwon et al. (2023): scores
// of a tile of keys, softmax as it goes, products with the values, nothing of the size of the context kept.
#pragma once

#include "kernels/kv_cache.h"
#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// A request with one new token (decode) is cut into chunks of the context, so that few requests with long
// contexts keep every rank busy. How depends on nothing but what the token sees, so that neither batch nor
// threads change a result.
constexpr int64_t kChunkPositions = 256;  // of contexts up to kMaxChunks times that; beyond, chunks grow
constexpr int64_t kMaxChunks = 32;
// Floats before the columns of a partial result: its largest score, in units of ln 2, and its sum.
constexpr int64_t kPartialHeader = 16;

// For each request, attends from its new tokens, which are its last ones, to all that precede them and to
// themselves. What several chunks of a decode give goes to `partials`; `attention_merge` makes results of them.
struct Attention {
    static constexpr std::string_view name = "attention";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"out", Kind::output},          {"partials", Kind::state},        {"q", Kind::input},
        {"k_cache", Kind::input},       {"v_cache", Kind::input},         {"kv_scales", Kind::input},
        {"block_tables", Kind::input},  {"query_start_loc", Kind::input}, {"seq_lens", Kind::input},
        {"requests", Kind::count},      {"heads", Kind::integer},         {"kv_heads", Kind::integer},
        {"head_dim", Kind::integer},    {"q_stride", Kind::integer},      {"q_head_stride", Kind::integer},
        {"block_stride", Kind::integer}, {"head_stride", Kind::integer},  {"block_size", Kind::integer},
        {"table_stride", Kind::integer}, {"chunks", Kind::integer},       {"window", Kind::integer},
        {"scale", Kind::real},          {"softcap", Kind::real},          {"dtype", Kind::integer},
        {"cache_dtype", Kind::integer},
    };
    // Reads the lengths: work depends on little else.
    int64_t cost() const {
        int64_t positions = 0;
        for (int64_t i = 0; i < requests; ++i) {
            const int64_t seen = window && window < seq_lens[i] ? window : seq_lens[i];
            positions += seen * (query_start_loc[i + 1] - query_start_loc[i] + 15) / 16;
        }
        return 2 * positions * kv_heads * head_dim * cache_element_bytes(cache_dtype);
    }

    void* out;                       // (tokens, heads, head_dim), dense
    float* partials;                 // (requests, heads, chunks, kPartialHeader + padded head_dim)
    const void* q;                   // (tokens, heads, head_dim), dense heads
    const void* k_cache;
    const void* v_cache;
    const float* kv_scales;          // of int8 and e4m3, else null
    const int32_t* block_tables;     // (requests, table_stride): blocks of each request in order
    const int32_t* query_start_loc;  // (requests + 1): first token of each request, then the number of tokens
    const int32_t* seq_lens;         // (requests): positions of each request, new ones included
    int64_t requests, heads, kv_heads, head_dim;
    int64_t q_stride, q_head_stride;
    int64_t block_stride, head_stride, block_size, table_stride;
    int64_t chunks;                  // for which `partials` has room
    int64_t window;                  // a token sees itself and window - 1 positions before it; 0: all of them
    double scale;                    // factor on q.k
    double softcap;                  // scores become softcap tanh(score / softcap); 0: they do not
    int64_t dtype, cache_dtype;
};

}  // namespace ozone
