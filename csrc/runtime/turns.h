// Work that ranks take in turns: each begins with an even share of its own, taken in ever smaller parts, and who is
// done takes what others have left. A part is a rank of a larger team, so kernels need not know.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace ozone {

class Turns {
  public:
    explicit Turns(int size) : turns_(2 * static_cast<size_t>(size)) {}

    int size() const { return static_cast<int>(turns_.size() / 2); }

    // Before the first of some launches, while no rank is at work.
    void begin() {
        for (Turn& turn : turns_) turn.next.store(0, std::memory_order_relaxed);
    }

    // Calls part(rank, size) until every part has been taken by somebody: those of rank r of `size` are ranks of
    // twice, four times and so on to 2^halvings times as many, which do all that r does. Every rank calls it, for the
    // same launches in the same order, numbered from 0, with a barrier behind each.
    template <typename Part>
    void take(uint32_t launch, int rank, int size, int halvings, Part part) {
        Turn* now = turns_.data() + (launch % 2) * static_cast<size_t>(size);
        Turn* later = turns_.data() + ((launch + 1) % 2) * static_cast<size_t>(size);
        later[rank].next.store(0, std::memory_order_relaxed);  // the launch before, which used it, has ended
        for (int other = 0; other < size; ++other) {
            const int whose = (rank + other) % size;
            for (int turn; (turn = now[whose].next.fetch_add(1, std::memory_order_relaxed)) <= halvings;) {
                // Halves, quarters, ...: the last part is as large as the one before it.
                const bool last = turn == halvings;
                const int depth = last ? turn : turn + 1;
                part((whose << depth) + (1 << depth) - (last ? 1 : 2), size << depth);
            }
        }
    }

  private:
    struct alignas(64) Turn {
        std::atomic<int> next{0};
    };
    std::vector<Turn> turns_;  // of every second launch, then of the others
};

}  // namespace ozone
