// The one thread team. It is small and patient: it spins about 50 us for the next launch and then sleeps, so
// that an idle process uses no CPU and other pools on the same cores are not starved.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/kernel.h"

namespace ozone {

// Bytes of scratch memory that each rank has to itself during a launch. Kernels cut their work to fit.
inline constexpr size_t kScratchBytes = size_t{4} << 20;

// The calling rank's scratch memory: page-aligned, contents arbitrary.
std::byte* scratch();

class Team {
  public:
    // `size` threads, the caller of `run` among them. Worker r is pinned to the r-th CPU of the process's
    // affinity where there is one for every thread; the caller, who also runs other pools, is left alone.
    explicit Team(int size);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }

    // Calls `function(params, rank, size)` on every thread and returns when all have returned.
    // One launch at a time: other callers wait.
    void run(KernelFunction function, const void* params);

  private:
    void work(int rank);

    struct alignas(64) Epoch {
        std::atomic<uint32_t> value{0};
    };

    const int size_;
    std::mutex mutex_;
    KernelFunction function_ = nullptr;
    const void* params_ = nullptr;
    bool stopping_ = false;
    Epoch started_;  // launches so far: workers wait for it to change
    Epoch busy_;     // workers that have not finished this launch: the caller waits for zero
    std::vector<std::thread> workers_;
};

// The team that launches use. Made on first use, as large as the process's affinity allows.
Team& team();

// Replaces the team. Throws std::invalid_argument for less than one thread.
void set_num_threads(int size);

}  // namespace ozone
