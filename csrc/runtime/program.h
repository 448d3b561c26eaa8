// A program: launches in order, without an address in them. It is stored as it is, and bound to memory by whoever
// runs it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/batch_header.h"
#include "runtime/stored_launch.h"

namespace ozone {

struct Program {
    std::vector<StoredLaunch> launches;

    // As numbers that can be kept in a file.
    std::vector<uint64_t> words() const;
    // Throws std::invalid_argument for numbers that `words` never gave, and for kernels that this library lacks.
    static Program from_words(std::span<const uint64_t> words);
};

// A program over some memory, which has to outlive it. Not to be run by two callers at once.
class BoundProgram {
  public:
    // Throws std::invalid_argument for launches that point out of `spans`.
    BoundProgram(const Program& program, std::span<const Span> spans);

    // Launches one after the other, for a batch that looks like `header`.
    void run(const BatchHeader& header);

    size_t size() const { return nodes_.size(); }
    const Kernel& kernel(size_t node) const { return *nodes_.at(node).kernel; }
    // The fields of a node as the kernel gets them, for a batch that looks like `header`.
    std::vector<uint64_t> fields(size_t node, const BatchHeader& header);

  private:
    struct Node {
        const Kernel* kernel;
        size_t first;  // of its values
    };
    struct Count {
        size_t value;  // its place among the values
        size_t index;  // into the header
        int64_t factor;
    };
    void look_up_counts(const BatchHeader& header);

    std::vector<Node> nodes_;
    std::vector<uint64_t> values_;  // 8 bytes for each field of each node
    std::vector<Count> counts_;
};

}  // namespace ozone
