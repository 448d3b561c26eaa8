// What follows attention where contexts are cut into chunks: joining what the chunks gave, alone or with the
// quantization for the linear behind.
#pragma once

#include "kernels/attention.h"
#include "kernels/quantize.h"

namespace ozone {

// About how many bytes of partial results there are to join.
inline int64_t partial_bytes(const int32_t* query_start_loc, const int32_t* seq_lens, int64_t requests, int64_t heads,
                             int64_t head_dim, int64_t window) {
    int64_t positions = 0;
    for (int64_t i = 0; i < requests; ++i)
        if (query_start_loc[i + 1] - query_start_loc[i] == 1)
            positions += window && window < seq_lens[i] ? window : seq_lens[i];
    return positions / kChunkPositions * heads * (head_dim + kPartialHeader) * 4;
}

// Joins the chunks of those requests that `attention` cut into several.
struct AttentionMerge {
    static constexpr std::string_view name = "attention_merge";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"out", Kind::output},         {"partials", Kind::input}, {"query_start_loc", Kind::input},
        {"seq_lens", Kind::input},     {"requests", Kind::count}, {"heads", Kind::integer},
        {"head_dim", Kind::integer},   {"chunks", Kind::integer}, {"window", Kind::integer},
        {"dtype", Kind::integer},
    };
    int64_t cost() const { return partial_bytes(query_start_loc, seq_lens, requests, heads, head_dim, window); }

    void* out;
    const float* partials;
    const int32_t* query_start_loc;
    const int32_t* seq_lens;
    int64_t requests, heads, head_dim;
    int64_t chunks, window;
    int64_t dtype;
};

// Quantizes what `attention` gave, joining those rows of it that were cut into chunks on the way.
struct AttentionMergeQuantize {
    static constexpr std::string_view name = "attention_merge_quantize";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        OZONE_QUANTIZED_FIELDS,      {"attended", Kind::input},  {"partials", Kind::input},
        {"query_start_loc", Kind::input}, {"seq_lens", Kind::input}, {"rows", Kind::count},
        {"requests", Kind::count},   {"heads", Kind::integer},   {"head_dim", Kind::integer},
        {"chunks", Kind::integer},   {"window", Kind::integer},  {"dtype", Kind::integer},
    };
    int64_t cost() const {
        return rows * heads * head_dim * (element_bytes(dtype) + 1) +
               partial_bytes(query_start_loc, seq_lens, requests, heads, head_dim, window);
    }

    Quantized to;                    // out_cols is heads head_dim
    const void* attended;            // (rows, heads, head_dim), dense: what `attention` wrote
    const float* partials;
    const int32_t* query_start_loc;
    const int32_t* seq_lens;
    int64_t rows, requests, heads, head_dim;
    int64_t chunks, window;
    int64_t dtype;
};

}  // namespace ozone
