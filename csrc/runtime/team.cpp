#include "runtime/team.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "runtime/wait.h"

namespace ozone {
namespace {

std::vector<int> affinity() {
    std::vector<int> cpus;
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
            if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
#endif
    if (cpus.empty())
        for (unsigned cpu = 0; cpu < std::max(1u, std::thread::hardware_concurrency()); ++cpu)
            cpus.push_back(static_cast<int>(cpu));
    return cpus;
}

void pin(std::thread& thread, int cpu) {
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);  // a refusal costs speed, not results
#endif
}

class Scratch {
  public:
    Scratch() {
        memory_ = mmap(nullptr, kScratchBytes + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory_ == MAP_FAILED) throw std::bad_alloc();
        mprotect(get() + kScratchBytes, kGuard, PROT_NONE);  // who writes behind the end finds out
    }
    ~Scratch() { munmap(memory_, kScratchBytes + kGuard); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    std::byte* get() const { return static_cast<std::byte*>(memory_); }

  private:
    static constexpr size_t kGuard = 64 << 10;  // a multiple of any page
    void* memory_;
};

thread_local std::byte* scratch_of_worker = nullptr;

class Team {
  public:
    explicit Team(int size) : size_(size), scratch_(static_cast<size_t>(size - 1)) {
        const std::vector<int> cpus = affinity();
        try {
            for (int rank = 1; rank < size; ++rank) {
                workers_.emplace_back([this, rank] { work(rank); });
                if (static_cast<int>(cpus.size()) >= size) pin(workers_.back(), cpus[static_cast<size_t>(rank)]);
            }
        } catch (...) {
            stop();
            throw;
        }
    }
    ~Team() { stop(); }
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }

    // One caller at a time.
    void run(KernelFunction function, const void* params) {
        function_ = function;
        params_ = params;
        busy_.value.store(static_cast<uint32_t>(size_ - 1), std::memory_order_relaxed);
        started_.value.fetch_add(1, std::memory_order_release);
        started_.value.notify_all();
        function(params, 0, size_);
        for (uint32_t busy = busy_.value.load(std::memory_order_acquire); busy != 0;)
            busy = wait_while(busy_.value, busy);
    }

  private:
    void work(int rank) {
        scratch_of_worker = scratch_[static_cast<size_t>(rank - 1)].get();
        // A launch ends when every worker has seen it, so that `started_` is ahead by one at most, also of a worker
        // that the system starts after the first launch.
        uint32_t seen = 0;
        while (true) {
            seen = wait_while(started_.value, seen);
            if (stopping_) return;
            function_(params_, rank, size_);
            // Only the last one wakes the caller, who may be asleep.
            if (busy_.value.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.value.notify_all();
        }
    }

    void stop() {
        stopping_ = true;  // read after `started_`
        started_.value.fetch_add(1, std::memory_order_release);
        started_.value.notify_all();
        for (std::thread& worker : workers_) worker.join();
    }

    struct alignas(64) Counter {
        std::atomic<uint32_t> value{0};
    };

    const int size_;
    KernelFunction function_ = nullptr;
    const void* params_ = nullptr;
    bool stopping_ = false;
    Counter started_;  // launches so far: workers wait for it to change
    Counter busy_;     // workers that have not finished this launch: the caller waits for zero
    std::vector<Scratch> scratch_;
    std::vector<std::thread> workers_;
};

// Held during a launch and while the team is replaced. Neither it nor the team is ever destroyed: threads may launch
// while the process exits.
std::mutex the_mutex;
static_assert(std::is_trivially_destructible_v<std::mutex>);
Team* the_team = nullptr;
std::atomic<int> the_size{0};  // 0: not decided

// A forked child has no workers: it makes a team of its own when it launches. The old one is left where it is.
// Registered when the library is loaded, since a fork beside a first launch would be too early for anything later.
[[maybe_unused]] const int survives_forks = pthread_atfork([] { the_mutex.lock(); }, [] { the_mutex.unlock(); },
                                                           [] {
                                                               the_team = nullptr;
                                                               the_mutex.unlock();
                                                           });

}  // namespace

std::byte* scratch() {
    if (scratch_of_worker) return scratch_of_worker;
    thread_local const Scratch mine;
    return mine.get();
}

int num_threads() {
    int size = the_size.load(std::memory_order_relaxed);
    if (size) return size;
    const int found = static_cast<int>(affinity().size());
    return the_size.compare_exchange_strong(size, found) ? found : size;
}

void run_on_team(KernelFunction function, const void* params) {
    scratch();  // before the launch, where it may throw
    if (num_threads() == 1) return function(params, 0, 1);
    const std::lock_guard lock(the_mutex);
    if (!the_team) the_team = new Team(num_threads());
    the_team->run(function, params);
}

void set_num_threads(int size) {
    if (size < 1) throw std::invalid_argument("a team needs at least 1 thread, not " + std::to_string(size));
    const std::lock_guard lock(the_mutex);
    if (the_team && the_team->size() == size) return;
    delete the_team;
    the_team = nullptr;
    the_team = new Team(size);
    the_size.store(size);
}

}  // namespace ozone
