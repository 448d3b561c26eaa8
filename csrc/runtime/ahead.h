// Weights that a rank is about to read, asked for while it waits for others. So memory is not idle while a step
// does what needs none of it.
#pragma once

#include <algorithm>
#include <cstddef>

#include "runtime/kernel.h"
#include "runtime/wait.h"

namespace ozone {

class Ahead {
  public:
    Ahead() = default;
    explicit Ahead(const Stretch& weights)
        : at_(weights.begin), end_(weights.begin + std::min(weights.bytes, kMostBytes)) {}

    // As many lines as can be under way at once: asking does not wait for them.
    void begin() { ask(kLinesAtOnce); }
    // Some more, or a pause.
    void go_on() {
        if (at_ < end_) ask(kLinesInTurn);
        else pause_briefly();
    }

  private:
    // A part of a second-level cache.
    static constexpr int64_t kMostBytes = 128 << 10, kLine = 64;
    static constexpr int kLinesAtOnce = 16, kLinesInTurn = 4;

    void ask(int lines) {
        for (; lines > 0 && at_ < end_; --lines, at_ += kLine) __builtin_prefetch(at_, 0, 2);
    }

    const std::byte* at_ = nullptr;
    const std::byte* end_ = nullptr;
};

}  // namespace ozone
