// Log-probabilities of a batch of logits, as ozone/engine/logprobs.py states them.
#pragma once

#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// The log-probability and the rank of one token of each row, and those of the most likely tokens.
struct TokenLogprobs {
    static constexpr std::string_view name = "token_logprobs";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"logprobs", Kind::output}, {"ranks", Kind::output},    {"top_ids", Kind::output},
        {"logits", Kind::input},    {"indices", Kind::input},   {"token_ids", Kind::input},
        {"rows", Kind::count},      {"num_top", Kind::integer}, {"vocab_size", Kind::integer},
    };
    int64_t cost() const { return rows * vocab_size * 4; }

    double* logprobs;          // (rows, 1 + num_top): of the token, then of the most likely ones
    int64_t* ranks;            // (rows): the token's rank from 1, equally likely tokens by id
    int64_t* top_ids;          // (rows, num_top), best first
    const float* logits;       // (any, vocab_size), dense, with finite maxima
    const int64_t* indices;    // (rows): which rows of the logits
    const int64_t* token_ids;  // (rows)
    int64_t rows;
    int64_t num_top;  // at most kMaxTopLogprobs and vocab_size
    int64_t vocab_size;
};

inline constexpr int64_t kMaxTopLogprobs = 256;

}  // namespace ozone
