// Products with weights in GGUF's block types, which stay about as small in memory as they are in the file.
//
// A matrix is packed in panels of 48 rows (panel.h). A panel holds one unit after the other, each a block's worth
// of columns (32, or 256 of the K types) of its rows, as `gguf_types.h` describes. Activations are int8 in groups
// of 32 or 256 columns with a float scale each; sums of 16 columns take care of what weights are offset by. Sums
// of 32 columns are exact integers, scaled and added up in float32, in the same order whatever the batch.
#pragma once

#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// GGML's numbers of the types.
enum class GgufType : int64_t { q4_0 = 2, q4_1 = 3, q5_0 = 6, q5_1 = 7, q8_0 = 8, q4_k = 12, q5_k = 13, q6_k = 14 };

// out[t][r] = sum_c(x[t][c] * x_scale[t][c / group] * w[r][c]) + bias[r] + residual[t][r]
//
// The rows are up to three segments of one type each, packed one after the other, each from a new panel on.
struct LinearGguf {
    static constexpr std::string_view name = "linear_gguf";
    static constexpr uint32_t version = 1;
    static constexpr bool has_weights = true;  // see weights_of
    // "near": weights are asked for ahead by less.
    static constexpr std::string_view ways[] = {"default", "near"};
    static constexpr Field fields[] = {
        {"out", Kind::output},      {"x", Kind::input},         {"x_scale", Kind::input},   {"x_sums", Kind::input},
        {"weight", Kind::input},    {"bias", Kind::input},      {"residual", Kind::input},  {"tokens", Kind::count},
        {"cols", Kind::integer},    {"x_group", Kind::integer}, {"type0", Kind::integer},   {"rows0", Kind::integer},
        {"type1", Kind::integer},   {"rows1", Kind::integer},   {"type2", Kind::integer},   {"rows2", Kind::integer},
        {"dtype", Kind::integer},   {"softcap", Kind::real},
    };
    int64_t cost() const {
        const int64_t rows = segments[0].rows + segments[1].rows + segments[2].rows;
        return tokens ? rows * cols / 2 + tokens * (cols + rows * element_bytes(dtype)) : 0;
    }

    void* out;              // (tokens, rows), dense
    const int8_t* x;        // (tokens, cols), dense
    const float* x_scale;   // (tokens, cols / x_group)
    const int16_t* x_sums;  // (tokens, cols / 16)
    const uint8_t* weight;  // packed
    const float* bias;      // (rows) or null
    const void* residual;   // (tokens, rows), dense, of type `dtype`, or null
    int64_t tokens, cols;
    int64_t x_group;  // 32 or 256
    struct {
        int64_t type, rows;
    } segments[3];
    int64_t dtype;
    double softcap;  // 0: none
};

// Rows of a packed table, times `scale`, as numbers.
struct EmbeddingGguf {
    static constexpr std::string_view name = "embedding_gguf";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"out", Kind::output},   {"token_ids", Kind::input}, {"weight", Kind::input},  {"tokens", Kind::count},
        {"rows", Kind::integer}, {"cols", Kind::integer},    {"type", Kind::integer},  {"wide_ids", Kind::integer},
        {"scale", Kind::real},   {"dtype", Kind::integer},
    };
    int64_t cost() const { return tokens * cols * 8; }

    void* out;              // (tokens, cols), dense
    const void* token_ids;  // (tokens) int32 or int64
    const uint8_t* weight;  // packed, one segment
    int64_t tokens, rows, cols, type;
    int64_t wide_ids;  // 1: token ids are int64
    double scale;
    int64_t dtype;
};

// Puts rows of GGUF blocks into panels, from row `row` of a segment on.
struct PackGguf {
    static constexpr std::string_view name = "pack_gguf";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"packed", Kind::output}, {"blocks", Kind::input}, {"row", Kind::integer},
        {"rows", Kind::integer},  {"cols", Kind::integer}, {"type", Kind::integer},
    };
    int64_t cost() const { return rows * cols; }

    uint8_t* packed;        // the segment's first panel
    const uint8_t* blocks;  // rows of blocks as they are in a GGUF file, dense
    int64_t row, rows, cols, type;
};

}  // namespace ozone
