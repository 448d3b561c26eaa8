// Waiting for other threads of the team: spinning first, since what they do takes microseconds, then asleep.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ozone {

inline constexpr auto kSpin = std::chrono::microseconds(50);

inline void pause_briefly() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Waits until `value` is not `old`, and calls `meanwhile` while it spins. Returns the new value.
template <typename Meanwhile>
uint32_t wait_while(const std::atomic<uint32_t>& value, uint32_t old, Meanwhile meanwhile) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < 64; ++i) {
            const uint32_t now = value.load(std::memory_order_acquire);
            if (now != old) return now;
            meanwhile();
        }
    } while (std::chrono::steady_clock::now() < deadline);
    value.wait(old, std::memory_order_acquire);
    return value.load(std::memory_order_acquire);
}

inline uint32_t wait_while(const std::atomic<uint32_t>& value, uint32_t old) {
    return wait_while(value, old, pause_briefly);
}

// Where threads wait for each other. The same threads, as many each time.
class Barrier {
  public:
    // Returns when `size` threads have called it. A thread that waits calls `meanwhile`, again and again.
    template <typename Meanwhile>
    void wait(int size, Meanwhile meanwhile) {
        const uint32_t phase = phase_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(size)) {
            arrived_.store(0, std::memory_order_relaxed);
            phase_.store(phase + 1, std::memory_order_release);
            phase_.notify_all();
        } else {
            wait_while(phase_, phase, meanwhile);
        }
    }

  private:
    alignas(64) std::atomic<uint32_t> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
};

}  // namespace ozone
