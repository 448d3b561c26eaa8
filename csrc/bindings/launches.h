// Launches that a thread makes, recorded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/program.h"

namespace ozone {

// Launches in order, which can be made again without Python in between, or stored as a program. Addresses are kept
// as they are: whoever records keeps alive what they point to. Threads may add and run at once: they take turns.
class Launches {
  public:
    // `params`: 8 bytes for each of the kernel's fields.
    void add(const Kernel& kernel, const uint64_t* params);

    void run() const;
    // Nanoseconds of each of so many runs.
    std::vector<uint64_t> times(int64_t repeats) const;
    Program store(const BatchHeader& header, std::span<const Span> spans) const;
    // The name of the way that each would take now; empty for kernels that have but one.
    std::vector<std::string_view> ways() const;
    std::vector<uint64_t> shapes() const;  // of each, see runtime/ways.h
    size_t size() const;

    bool dry = false;  // what is recorded is not run

  private:
    struct Made {
        const Kernel* kernel;
        size_t first;  // of its values
    };
    mutable std::mutex mutex_;
    std::vector<Made> made_;
    std::vector<uint64_t> values_;
};

// Where this thread's launches go, or nullptr. It lives as long as it is that, whatever Python does with its object.
extern thread_local std::shared_ptr<Launches> recording;

}  // namespace ozone
