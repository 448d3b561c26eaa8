// A program: launches in order, without an address in them. It is stored as it is, and bound to memory by whoever
// runs it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "runtime/ahead.h"
#include "runtime/batch_header.h"
#include "runtime/stored_launch.h"
#include "runtime/turns.h"
#include "runtime/wait.h"

namespace ozone {

struct Program {
    std::vector<StoredLaunch> launches;

    // As numbers that can be kept in a file.
    std::vector<uint64_t> words() const;
    // Throws std::invalid_argument for numbers that `words` never gave, and for kernels that this library lacks.
    static Program from_words(std::span<const uint64_t> words);
};

// A program over some memory, which has to outlive it. Callers take turns.
class BoundProgram {
  public:
    // Throws std::invalid_argument for launches that point out of `spans`.
    BoundProgram(const Program& program, std::span<const Span> spans);

    // Launches one after the other, for a batch that looks like `header`.
    void run(const BatchHeader& header);

    // The same in one launch on the thread team, whose threads go from node to node by themselves and wait for each
    // other where one node's work may be another's input.
    void replay(const BatchHeader& header);

    // Replays it, with a barrier behind every node; nanoseconds that each node took.
    std::vector<uint64_t> times(const BatchHeader& header);

    size_t size() const { return nodes_.size(); }
    const Kernel& kernel(size_t node) const { return *nodes_.at(node).kernel; }
    // The fields of a node as the kernel gets them, for a batch that looks like `header`.
    std::vector<uint64_t> fields(size_t node, const BatchHeader& header);

  private:
    struct Node {
        const Kernel* kernel;
        size_t first;  // of its values
        // Of the replay at hand: what is run, whether by rank 0 alone, and bytes of weights that are read in order.
        KernelFunction function = nullptr;
        bool alone = false;
        int64_t weight_bytes = 0;
    };
    struct Count {
        size_t value;  // its place among the values
        size_t index;  // into the header
        int64_t factor;
    };
    void look_up_counts(const BatchHeader& header);
    void replay(const BatchHeader& header, std::vector<uint64_t>* times);
    void replay_share(int rank, int size);
    Stretch weights_of(const Node& node, int rank, int size) const;
    Ahead ahead_of(size_t node, int rank, int size) const;

    std::vector<Node> nodes_;
    std::vector<uint64_t> values_;  // 8 bytes for each field of each node
    std::vector<Count> counts_;
    std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();  // held by whoever looked up counts
    std::unique_ptr<Barrier> barrier_ = std::make_unique<Barrier>();
    std::unique_ptr<Turns> turns_ = std::make_unique<Turns>(1);
    std::vector<uint64_t>* times_ = nullptr;  // of the replay at hand
};

}  // namespace ozone
