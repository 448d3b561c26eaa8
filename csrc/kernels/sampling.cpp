#include "kernels/sampling.h"

#include <cstddef>

#include "kernels/doubles.h"
#include "kernels/nucleus.h"
#include "kernels/selection.h"
#include "runtime/team.h"

namespace ozone::OZONE_ISA {
namespace {

// Most tokens that are looked at one by one; with more the whole row is.
constexpr int64_t kMaxCandidates = 8192;
// About so many tokens, and then so many, are tried for a nucleus before all are: most are small.
constexpr int64_t kSmallNuclei[] = {512, 1536};
constexpr int64_t kSumBlock = 256;
// Weights below e^-708 of the largest are 0.
constexpr double kLeastExponent = -708;
constexpr double kNoShare = __builtin_inf();

// A rank's scratch memory, for rows of one size.
struct Workspace {
    float* row;          // (size), padded to whole vectors: logits with the request's changes
    float* maxima;       // of blocks
    double* weights;     // (size), padded
    double* block_sums;  // of kSumBlock weights
    float* values;       // (kMaxCandidates + kBlock)
    int32_t* ids;        // (kMaxCandidates + kBlock)
    double* few;         // (kMaxCandidates + kDoubles): weights of those
    double* rest;
    int64_t rest_size;

    explicit Workspace(int64_t size) {
        std::byte* at = scratch();
        std::byte* const end = at + kScratchBytes;
        const auto take = [&]<typename T>(T*& array, int64_t bytes) {
            array = reinterpret_cast<T*>(at);
            at += (bytes + 63) / 64 * 64;
        };
        take(row, size * 4 + 64);
        take(maxima, maxima_bytes(size));
        take(weights, size * 8 + 64);
        take(block_sums, size / kSumBlock * 8 + 8);
        take(values, (kMaxCandidates + kBlock) * 4);
        take(ids, (kMaxCandidates + kBlock) * 4);
        take(few, (kMaxCandidates + kPadding) * 8);
        take(rest, 0);
        rest_size = (end - at) / 8;
    }
};

// ---- the random stream: ozone/engine/random_stream.py ----

// Philox4x32-10 (Salmon et al., 2011), the first 53 bits of its output as a number in [0, 1).
double uniform(uint64_t seed, uint64_t position) {
    uint32_t x0 = static_cast<uint32_t>(position), x1 = static_cast<uint32_t>(position >> 32), x2 = 0, x3 = 0;
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t product0 = uint64_t{0xD2511F53} * x0, product1 = uint64_t{0xCD9E8D57} * x2;
        x0 = static_cast<uint32_t>(product1 >> 32) ^ x1 ^ key0;
        x2 = static_cast<uint32_t>(product0 >> 32) ^ x3 ^ key1;
        x1 = static_cast<uint32_t>(product1);
        x3 = static_cast<uint32_t>(product0);
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
    return static_cast<double>((uint64_t{x1} << 32 | x0) >> 11) * 0x1p-53;
}

// ---- what restricts or shifts the choice: SamplingState.change_logits ----

bool changes_logits(const SamplingRow& p) {
    return p.allowed || p.num_banned || p.num_biased || p.num_seen;
}

// `row` holds the model's logits and gets the changed ones. Ids outside of the vocabulary change nothing.
void change(float* row, const float* raw, int64_t size, const SamplingRow& p) {
    const auto exists = [=](int64_t id) { return static_cast<uint64_t>(id) < static_cast<uint64_t>(size); };
    if (p.allowed) {
        for (int64_t at = 0; at < size; at += kLanes) store(row + at, splat(-kInfinity));
        for (int64_t i = 0; i < p.num_allowed; ++i)
            if (exists(p.allowed[i])) row[p.allowed[i]] = raw[p.allowed[i]];
    }
    for (int64_t i = 0; i < p.num_banned; ++i)
        if (exists(p.banned[i])) row[p.banned[i]] = -kInfinity;
    for (int64_t i = 0; i < p.num_biased; ++i)
        if (exists(p.biased[i])) row[p.biased[i]] += p.biases[i];
    const float repetition = static_cast<float>(p.repetition_penalty);
    const float frequency = static_cast<float>(p.frequency_penalty);
    for (int64_t i = 0; i < p.num_seen; ++i) {
        if (!exists(p.seen[i])) continue;
        float& logit = row[p.seen[i]];
        logit = logit > 0 ? logit / repetition : logit * repetition;
        const double penalty = static_cast<double>(frequency * p.generated[i]) +
                               (p.generated[i] > 0 ? p.presence_penalty : 0.0);
        logit = static_cast<float>(logit - penalty);
    }
}

// ---- choosing ----

int64_t first_of_largest(const Row& row) {
    const F32 top = splat(row.top);
    for (int64_t block = 0; block < row.blocks(); ++block) {
        if (!at_least(load(row.maxima + block * kLanes), top)) continue;
        for (int64_t at = block * kBlock; at < row.size; ++at)
            if (row.values[at] == row.top) return at;
    }
    return kNoneLeft;
}

// exp((logit - top) / temperature), and 0 for a logit below `floor`
struct Weighing {
    double top, factor, cutoff;

    Weighing(double top, double temperature, double floor) : top(top), factor(1 / temperature) {
        const double least = kLeastExponent * temperature;
        cutoff = floor - top > least ? floor - top : least;
    }

    OZONE_INLINE F64 operator()(const float* logits) const {
        const F64 difference = widen(logits) - splat(top);
        return zero_below(exp_of_negative(difference * splat(factor)), difference, splat(cutoff));
    }
};

// Fills `weights`, of whole vectors, and the sums of its blocks. Returns their sum.
double weigh(const float* logits, int64_t size, Weighing weighing, double* weights, double* block_sums) {
    double total = 0;
    for (int64_t begin = 0, block = 0; begin < size; begin += kSumBlock, ++block) {
        const int64_t end = begin + kSumBlock < size ? begin + kSumBlock : size;
        F64 sums = splat(0.0);
        int64_t at = begin;
        for (; at + kDoubles <= end; at += kDoubles) {
            const F64 w = weighing(logits + at);
            store(weights + at, w);
            sums += w;
        }
        if (at < end) {
            float last[kDoubles];
            for (int i = 0; i < kDoubles; ++i) last[i] = at + i < end ? logits[at + i] : -kInfinity;
            const F64 w = weighing(last);
            store(weights + at, w);
            sums += w;
        }
        block_sums[block] = sum(sums);
        total += block_sums[block];
    }
    return total;
}

// Sets the last of the weights that tie for a place in the nucleus and find none to 0.
void drop_surplus(double* weights, int64_t size, const Cut& cut) {
    int64_t surplus = cut.equal - cut.kept;
    for (int64_t at = size; surplus > 0 && at-- > 0;)
        if (weights[at] == cut.least) weights[at] = 0, --surplus;
}

// Sums of the blocks of what is at least `least`.
double sum_blocks(const double* weights, int64_t size, double least, double* block_sums) {
    double total = 0;
    for (int64_t begin = 0, block = 0; begin < size; begin += kSumBlock, ++block) {
        const int64_t end = begin + kSumBlock < size ? begin + kSumBlock : size;
        F64 sums = splat(0.0);
        for (int64_t at = begin; at < end; at += kDoubles) {  // zeros behind the end
            const F64 w = load(weights + at);
            sums += zero_below(w, w, splat(least));
        }
        block_sums[block] = sum(sums);
        total += block_sums[block];
    }
    return total;
}

// The first index whose running sum of the weights from `least` on exceeds `target`, a share of their total.
int64_t invert(const double* weights, int64_t size, double least, const double* block_sums, double target) {
    int64_t block = 0, last = 0;
    const int64_t blocks = (size + kSumBlock - 1) / kSumBlock;
    double before = 0;
    for (; block < blocks; ++block) {  // rounding may lead past the last: then it is the last with a weight
        if (block_sums[block] > 0) last = block;
        if (before + block_sums[block] > target) break;
        before += block_sums[block];
    }
    if (block == blocks) {
        block = last;
        before = target;
    }
    const int64_t end = (block + 1) * kSumBlock < size ? (block + 1) * kSumBlock : size;
    double running = 0;
    int64_t found = block * kSumBlock;
    for (int64_t at = block * kSumBlock; at < end; ++at) {
        if (weights[at] < least || weights[at] <= 0) continue;
        found = at;
        running += weights[at];
        if (running + before > target) break;
    }
    return found;
}

// A random choice among weights with this sum and these sums of blocks, or among the nucleus of them that holds
// `share`, if that is less than all. Returns an index.
int64_t pick(double* weights, int64_t size, double total, double share, double uniform, Workspace& work) {
    double least = 0;
    if (share < kNoShare) {
        const Cut cut = find_cut(weights, size, total, share, work.rest, work.rest_size);
        drop_surplus(weights, size, cut);
        least = cut.least;
        total = sum_blocks(weights, size, least, work.block_sums);
    }
    return invert(weights, size, least, work.block_sums, uniform * total);
}

double share_of_nucleus(const SamplingRow& p, double total) { return p.top_p < 1 ? p.top_p * total : kNoShare; }

// Collects the most likely `tokens` or more if it looks as if they hold the nucleus, and returns how many they are; or 0.
int64_t collect_small_nucleus(const Row& row, int64_t tokens, double total, double share, Workspace& work) {
    const float bound = bound_of_largest(row, tokens);
    if (bound == -kInfinity) return 0;
    constexpr int64_t kSample = 256;
    double missed = 0;
    for (int64_t i = 0; i < kSample; ++i) {
        const int64_t at = (2 * i + 1) * row.size / (2 * kSample);
        if (row.values[at] < bound) missed += work.weights[at];
    }
    if (missed * static_cast<double>(row.size) / kSample > total - share) return 0;
    const int64_t count = collect(row, bound, kMaxCandidates, work.ids);
    return count <= kMaxCandidates ? count : 0;
}

// A random choice among the tokens with a logit of at least `floor`.
int64_t choose_among_all(const Row& row, const SamplingRow& p, float floor, double uniform, Workspace& work) {
    const Weighing weighing(row.top, p.temperature, floor);
    const double total = weigh(row.values, row.size, weighing, work.weights, work.block_sums);
    const double share = share_of_nucleus(p, total);
    if (share < kNoShare) {
        for (const int64_t tokens : kSmallNuclei) {
            const int64_t count = collect_small_nucleus(row, tokens, total, share, work);
            double held = 0;
            for (int64_t i = 0; i < count; ++i) held += work.few[i] = work.weights[work.ids[i]];
            for (int64_t i = 0; i < kDoubles; ++i) work.few[count + i] = 0;
            if (held >= share) return work.ids[pick(work.few, count, held, share, uniform, work)];
        }
    }
    return pick(work.weights, row.size, total, share, uniform, work);
}

// The same among `count` of them: work.ids.
int64_t choose_among(int64_t count, const Row& row, const SamplingRow& p, double uniform, Workspace& work) {
    for (int64_t i = 0; i < count; ++i) work.values[i] = row.values[work.ids[i]];
    const Weighing weighing(row.top, p.temperature, -__builtin_inf());
    const double total = weigh(work.values, count, weighing, work.few, work.block_sums);
    return work.ids[pick(work.few, count, total, share_of_nucleus(p, total), uniform, work)];
}

int64_t choose(const Row& row, const SamplingRow& p, Workspace& work) {
    if (p.temperature == 0) return first_of_largest(row);
    const double number = uniform(p.seed, static_cast<uint64_t>(p.position));
    float floor = static_cast<float>(row.top + p.temperature * p.log_min_p);
    int64_t count = -1;
    if (p.top_k && p.top_k < row.size) {
        const float least = nth_largest(row, p.top_k, kMaxCandidates, work.values, work.ids, count);
        floor = least > floor ? least : floor;
    }
    if (count >= 0) {
        int64_t kept = 0;
        for (int64_t i = 0; i < count; ++i) {
            work.ids[kept] = work.ids[i];
            kept += work.values[i] >= floor;
        }
        return choose_among(kept, row, p, number, work);
    }
    if (floor > -kInfinity) {
        count = collect(row, floor, kMaxCandidates, work.ids);
        if (count <= kMaxCandidates) return choose_among(count, row, p, number, work);
    }
    return choose_among_all(row, p, floor, number, work);
}

int64_t sample_row(const float* logits, int64_t size, const SamplingRow& p, Workspace& work) {
    const bool changed = changes_logits(p);
    Row row = changed ? survey<true>(logits, size, work.maxima, work.row) : survey<false>(logits, size, work.maxima);
    if (!(__builtin_fabsf(row.top) < kInfinity)) return kNotFinite;
    if (changed) {
        change(work.row, logits, size, p);
        row = survey<false>(work.row, size, work.maxima);
        if (row.top == -kInfinity) return kNoneLeft;
    }
    return choose(row, p, work);
}

}  // namespace

void run(const Sample& p, int rank, int size) {
    Workspace work(p.vocab_size);
    for (int64_t row = rank; row < p.rows; row += size)  // costly requests may stand side by side
        p.out[row] = sample_row(p.logits + row * p.vocab_size, p.vocab_size, p.params[row], work);
}

}  // namespace ozone::OZONE_ISA
