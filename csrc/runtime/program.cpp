#include "runtime/program.h"

#include <chrono>
#include <cstring>
#include <stdexcept>

#include "runtime/launch.h"
#include "runtime/team.h"

namespace ozone {
namespace {

// Parts of a launch that ranks take in turns: so small that nobody waits long for the last one, so large that the
// weights of one are worth a call.
constexpr int64_t kLeastPartBytes = 64 << 10;
constexpr int kMostHalvings = 8;

}  // namespace

std::vector<uint64_t> Program::words() const {
    std::vector<uint64_t> words;
    for (const StoredLaunch& launch : launches) {
        words.push_back(uint64_t{launch.version} << 32 | launch.kernel);
        words.push_back(launch.fields.size());
        for (const StoredField& field : launch.fields) {
            words.push_back(field.where);
            words.push_back(field.value);
        }
    }
    return words;
}

Program Program::from_words(std::span<const uint64_t> words) {
    Program program;
    while (!words.empty()) {
        if (words.size() < 2 || words[1] > (words.size() - 2) / 2)
            throw std::invalid_argument("a stored program ends in the middle of a launch");
        StoredLaunch launch{static_cast<uint32_t>(words[0]), static_cast<uint32_t>(words[0] >> 32), {}};
        const size_t fields = words[1];
        for (size_t i = 0; i < fields; ++i) launch.fields.push_back({words[2 + 2 * i], words[3 + 2 * i]});
        kernel_of(launch);
        program.launches.push_back(std::move(launch));
        words = words.subspan(2 + 2 * fields);
    }
    return program;
}

BoundProgram::BoundProgram(const Program& program, std::span<const Span> spans) {
    for (const StoredLaunch& launch : program.launches) {
        const Kernel& kernel = kernel_of(launch);
        nodes_.push_back({&kernel, values_.size()});
        for (size_t i = 0; i < launch.fields.size(); ++i) {
            const StoredField& field = launch.fields[i];
            if (is_pointer(kernel.fields[i].kind)) {
                values_.push_back(address_of(field, spans));
                continue;
            }
            if (kernel.fields[i].kind == Kind::count) {
                if (field.where >= kNumCounts)
                    throw std::invalid_argument("a stored launch has a count of no batch header");
                counts_.push_back({values_.size(), field.where, static_cast<int64_t>(field.value)});
            }
            values_.push_back(field.value);
        }
    }
}

void BoundProgram::look_up_counts(const BatchHeader& header) {
    int64_t counts[kNumCounts];
    std::memcpy(counts, &header, sizeof header);
    for (const Count& count : counts_) values_[count.value] = static_cast<uint64_t>(counts[count.index] * count.factor);
}

void BoundProgram::run(const BatchHeader& header) {
    const std::lock_guard lock(*mutex_);
    look_up_counts(header);
    for (const Node& node : nodes_) launch(*node.kernel, values_.data() + node.first);
}

void BoundProgram::replay(const BatchHeader& header) { replay(header, nullptr); }

std::vector<uint64_t> BoundProgram::times(const BatchHeader& header) {
    std::vector<uint64_t> times;
    times.reserve(nodes_.size());
    replay(header, &times);
    return times;
}

void BoundProgram::replay(const BatchHeader& header, std::vector<uint64_t>* times) {
    const std::lock_guard lock(*mutex_);
    look_up_counts(header);
    bool all_alone = true;
    for (Node& node : nodes_) {
        const uint64_t* params = values_.data() + node.first;
        node.function = function_of(*node.kernel, params);
        const int64_t cost = node.kernel->cost(params);
        node.alone = cost < kAloneInReplayBelowBytes;
        node.weight_bytes = node.alone ? 0 : weights_of(node, 0, 1).bytes;
        all_alone = all_alone && cost < kAloneBelowBytes;
    }
    times_ = times;
    if (turns_->size() != num_threads()) turns_ = std::make_unique<Turns>(num_threads());
    turns_->begin();
    scratch();  // kernels must not throw
    if (all_alone) return replay_share(0, 1);
    run_on_team([](const void* self, int rank, int size) noexcept {
        static_cast<BoundProgram*>(const_cast<void*>(self))->replay_share(rank, size);
    }, this);
}

Stretch BoundProgram::weights_of(const Node& node, int rank, int size) const {
    const KernelWeights weights = node.kernel->variants[static_cast<int>(active_isa())].weights;
    return weights ? weights(values_.data() + node.first, rank, size) : Stretch{};
}

// What the first node from `node` on that reads weights has of them for a rank.
Ahead BoundProgram::ahead_of(size_t node, int rank, int size) const {
    while (node < nodes_.size() && !nodes_[node].weight_bytes) ++node;
    return node < nodes_.size() ? Ahead(weights_of(nodes_[node], rank, size)) : Ahead();
}

void BoundProgram::replay_share(int rank, int size) {
    using Clock = std::chrono::steady_clock;
    auto start = Clock::now();
    const bool in_turns = size > 1 && size == turns_->size();
    uint32_t launches_in_turns = 0;
    Ahead ahead = in_turns ? ahead_of(0, rank, size) : Ahead();
    for (size_t i = 0; i < nodes_.size(); ++i) {
        const Node& node = nodes_[i];
        const uint64_t* params = values_.data() + node.first;
        if (in_turns && node.weight_bytes) {
            ahead = ahead_of(i + 1, rank, size);
            int halvings = 0;
            while (halvings < kMostHalvings && node.weight_bytes / size >> (halvings + 1) >= kLeastPartBytes) ++halvings;
            turns_->take(launches_in_turns++, rank, size, halvings,
                         [&](int part, int parts) { node.function(params, part, parts); });
        } else if (!node.alone) {
            node.function(params, rank, size);
        } else if (rank == 0) {
            node.function(params, 0, 1);
        }
        // What one thread does alone, it does in order. Behind the last node, the launch itself ends.
        const bool goes_on = i + 1 == nodes_.size() || (node.alone && nodes_[i + 1].alone);
        if (size > 1 && (times_ || !goes_on)) {
            ahead.begin();
            barrier_->wait(size, [&] { ahead.go_on(); });
        }
        if (!times_ || rank != 0) continue;
        const auto now = Clock::now();
        times_->push_back(static_cast<uint64_t>(std::chrono::nanoseconds(now - start).count()));
        start = now;
    }
}

std::vector<uint64_t> BoundProgram::fields(size_t node, const BatchHeader& header) {
    const std::lock_guard lock(*mutex_);
    look_up_counts(header);
    const auto first = values_.begin() + static_cast<std::ptrdiff_t>(nodes_.at(node).first);
    return {first, first + static_cast<std::ptrdiff_t>(nodes_[node].kernel->fields.size())};
}

}  // namespace ozone
