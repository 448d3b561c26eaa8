// Rows of a table of token embeddings.
#pragma once

#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// out[t] = row token_ids[t] of a table, times `scale`, rounded once. An id that the table does not have gives NaN.
struct Embedding {
    static constexpr std::string_view name = "embedding";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"out", Kind::output},   {"token_ids", Kind::input}, {"weight", Kind::input}, {"tokens", Kind::count},
        {"rows", Kind::integer}, {"cols", Kind::integer}, {"wide_ids", Kind::integer}, {"packed", Kind::integer}, {"dtype", Kind::integer},
        {"scale", Kind::real},
    };
    int64_t cost() const { return tokens * cols * element_bytes(dtype) * 8; }

    void* out;              // (tokens, cols), dense, of type `dtype`
    const void* token_ids;  // (tokens) int64 if `wide_ids`, else int32
    const void* weight;     // (panels, steps, 48, columns of a step) if `packed`, else (rows, cols)
    int64_t tokens, rows, cols;
    int64_t wide_ids, packed, dtype;
    double scale;
};

}  // namespace ozone
