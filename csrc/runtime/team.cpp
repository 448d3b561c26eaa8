#include "runtime/team.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ozone {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Waits until `value` is not `old`: spinning first, then asleep. Returns the new value.
uint32_t wait_while(const std::atomic<uint32_t>& value, uint32_t old) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < 64; ++i) {
            const uint32_t now = value.load(std::memory_order_acquire);
            if (now != old) return now;
            pause();
        }
    } while (std::chrono::steady_clock::now() < deadline);
    value.wait(old, std::memory_order_acquire);
    return value.load(std::memory_order_acquire);
}

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
        memory_ = mmap(nullptr, kScratchBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory_ == MAP_FAILED) throw std::bad_alloc();
    }
    ~Scratch() { munmap(memory_, kScratchBytes); }
    std::byte* get() const { return static_cast<std::byte*>(memory_); }

  private:
    void* memory_;
};

std::mutex team_mutex;
std::unique_ptr<Team>& the_team() {
    static std::unique_ptr<Team> team;
    return team;
}

}  // namespace

std::byte* scratch() {
    thread_local Scratch memory;
    return memory.get();
}

Team::Team(int size) : size_(size) {
    const std::vector<int> cpus = affinity();
    for (int rank = 1; rank < size; ++rank) {
        workers_.emplace_back([this, rank] { work(rank); });
        if (static_cast<int>(cpus.size()) >= size) pin(workers_.back(), cpus[rank]);
    }
}

Team::~Team() {
    stopping_ = true;
    started_.value.fetch_add(1, std::memory_order_release);
    started_.value.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void Team::run(KernelFunction function, const void* params) {
    if (size_ == 1) return function(params, 0, 1);
    const std::lock_guard lock(mutex_);
    function_ = function;
    params_ = params;
    busy_.value.store(static_cast<uint32_t>(size_ - 1), std::memory_order_relaxed);
    started_.value.fetch_add(1, std::memory_order_release);
    started_.value.notify_all();
    function(params, 0, size_);
    for (uint32_t busy = busy_.value.load(std::memory_order_acquire); busy != 0;)
        busy = wait_while(busy_.value, busy);
}

void Team::work(int rank) {
    uint32_t seen = 0;
    while (true) {
        seen = wait_while(started_.value, seen);
        if (stopping_) return;
        function_(params_, rank, size_);
        // Only the last one wakes the caller, who may be asleep.
        if (busy_.value.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.value.notify_all();
    }
}

Team& team() {
    const std::lock_guard lock(team_mutex);
    if (!the_team()) the_team() = std::make_unique<Team>(static_cast<int>(affinity().size()));
    return *the_team();
}

void set_num_threads(int size) {
    if (size < 1) throw std::invalid_argument("a team needs at least 1 thread, not " + std::to_string(size));
    const std::lock_guard lock(team_mutex);
    if (the_team() && the_team()->size() == size) return;
    the_team() = nullptr;
    the_team() = std::make_unique<Team>(size);
}

}  // namespace ozone
