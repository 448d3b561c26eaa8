#include "runtime/program.h"

#include <cstring>
#include <stdexcept>

#include "runtime/launch.h"

namespace ozone {

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
    look_up_counts(header);
    for (const Node& node : nodes_) launch(*node.kernel, values_.data() + node.first);
}

std::vector<uint64_t> BoundProgram::fields(size_t node, const BatchHeader& header) {
    look_up_counts(header);
    const auto first = values_.begin() + static_cast<std::ptrdiff_t>(nodes_.at(node).first);
    return {first, first + static_cast<std::ptrdiff_t>(nodes_[node].kernel->fields.size())};
}

}  // namespace ozone
