// From a batch of logits to one token for each row. What is computed is stated in ozone/engine/sampler.py and
// ozone/engine/logprobs.py, the references; ozone/engine/native_sampler.py calls this.
#pragma once

#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// What takes the place of a token id where none can be sampled.
inline constexpr int64_t kNotFinite = -1;  // the largest logit is NaN or infinite
inline constexpr int64_t kNoneLeft = -2;   // the request's restrictions leave no token

// The parameters of one row. Every field takes 8 bytes; ozone/engine/native_sampler.py has the same layout.
// Tokens in a list differ from one another.
struct SamplingRow {
    int64_t position;     // of the token to be sampled: selects the random number
    uint64_t seed;        // of the row's random stream
    double temperature;   // 0: greedy
    double log_min_p;     // -infinity: no limit
    double top_p;         // 1: no limit
    int64_t top_k;        // 0: no limit
    const int64_t* allowed;  // no other token may be chosen; null: any
    int64_t num_allowed;
    const int64_t* banned;
    int64_t num_banned;
    const int64_t* biased;
    const float* biases;
    int64_t num_biased;
    const int64_t* seen;       // the tokens of prompt and output
    const float* generated;    // how often each of them is in the output
    int64_t num_seen;
    double repetition_penalty, frequency_penalty, presence_penalty;
};

// out[i] = the token sampled from row i of the logits
struct Sample {
    static constexpr std::string_view name = "sample";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"out", Kind::output}, {"logits", Kind::input},       {"params", Kind::input},
        {"rows", Kind::count}, {"vocab_size", Kind::integer},
    };
    int64_t cost() const { return rows * vocab_size * 4; }

    int64_t* out;               // (rows); kNotFinite or kNoneLeft where there is none
    const float* logits;        // (rows, vocab_size), dense
    const SamplingRow* params;  // (rows)
    int64_t rows;
    int64_t vocab_size;  // at most kMaxSampledVocabulary
};

// What the scratch memory of a rank has room for.
inline constexpr int64_t kMaxSampledVocabulary = 288 << 10;

}  // namespace ozone
