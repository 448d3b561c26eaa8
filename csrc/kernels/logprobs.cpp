#include "kernels/logprobs.h"

#include <cstddef>

#include "kernels/selection.h"
#include "runtime/team.h"

namespace ozone::OZONE_ISA {
namespace {

constexpr int64_t kMaxCandidates = 8192;

// The logarithm of the sum of the exponentials. Sums of blocks are added as doubles.
double log_sum_exp(const Row& row) {
    const F32 top = splat(row.top);
    double total = 0;
    for (int64_t begin = 0; begin < row.size; begin += kBlock) {
        const int64_t end = begin + kBlock < row.size ? begin + kBlock : row.size;
        F32 even = splat(0.0f), odd = even;
        for (int64_t at = begin; at < end; at += 2 * kLanes) {
            even += exp(load_until(row.values, at, end, -kInfinity) - top);
            odd += exp(load_until(row.values, at + kLanes, end, -kInfinity) - top);
        }
        total += sum(even + odd);
    }
    return row.top + __builtin_log(total);
}

int64_t rank_of(const Row& row, int64_t token_id) {
    const float value = row.values[token_id];
    const F32 values = splat(value);
    I32 counts{};
    int64_t at = 0;
    for (; at + kLanes <= token_id; at += kLanes) counts -= load(row.values + at) >= values;
    for (int64_t i = at; i < token_id && i < row.size; ++i) counts[0] += row.values[i] >= value;
    at = token_id;
    for (; at + kLanes <= row.size; at += kLanes) counts -= load(row.values + at) > values;
    for (; at < row.size; ++at) counts[0] += row.values[at] > value;
    int64_t rank = 1;
    for (int i = 0; i < kLanes; ++i) rank += counts[i];
    return rank;
}

// The `count` most likely tokens, best first, of equally likely ones the lowest first.
void most_likely(const Row& row, int64_t count, int64_t* found, float* values, int32_t* ids) {
    int64_t candidates;
    const float least = nth_largest(row, count, kMaxCandidates, values, ids, candidates);
    const int64_t better = collect(row, __builtin_nextafterf(least, kInfinity), kMaxCandidates, ids);
    for (int64_t i = 0; i < better; ++i) {  // insertion sort: fewer than `count`
        int64_t at = i;
        for (; at > 0 && row.values[found[at - 1]] < row.values[ids[i]]; --at) found[at] = found[at - 1];
        found[at] = ids[i];
    }
    int64_t at = better;
    for (int64_t block = 0; at < count && block < row.blocks(); ++block) {
        if (!at_least(load(row.maxima + block * kLanes), splat(least))) continue;
        for (int64_t i = block * kBlock; i < row.size && i < (block + 1) * kBlock && at < count; ++i)
            if (row.values[i] == least) found[at++] = i;
    }
}

}  // namespace

void run(const TokenLogprobs& p, int rank, int size) {
    std::byte* at = scratch();
    float* values = reinterpret_cast<float*>(at);
    int32_t* ids = reinterpret_cast<int32_t*>(values + kMaxCandidates + kBlock);
    float* maxima = reinterpret_cast<float*>(ids + kMaxCandidates + kBlock);
    for (int64_t i = rank; i < p.rows; i += size) {
        const Row row = survey<false>(p.logits + p.indices[i] * p.vocab_size, p.vocab_size, maxima);
        const double log_sum = log_sum_exp(row);
        double* logprobs = p.logprobs + i * (1 + p.num_top);
        int64_t* top_ids = p.top_ids + i * p.num_top;
        logprobs[0] = row.values[p.token_ids[i]] - log_sum;
        p.ranks[i] = rank_of(row, p.token_ids[i]);
        if (!p.num_top) continue;
        most_likely(row, p.num_top, top_ids, values, ids);
        for (int64_t k = 0; k < p.num_top; ++k) logprobs[1 + k] = row.values[top_ids[k]] - log_sum;
    }
}

}  // namespace ozone::OZONE_ISA
