// What this machine can do at most: a read of memory, and products out of registers. Benchmarks state the figures
// of other kernels against these, reached by the same thread team.
#pragma once

#include "runtime/kernel.h"

namespace ozone {

// Reads every byte once, each rank its part from beginning to end, and keeps a checksum.
struct StreamRead {
    static constexpr std::string_view name = "stream_read";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"out", Kind::output},
        {"data", Kind::input},
        {"bytes", Kind::integer},
    };
    int64_t cost() const { return bytes; }

    int64_t* out;      // (size, 8): the checksum of rank r is in [r][0]
    const void* data;  // bytes, aligned to 64
    int64_t bytes;     // a multiple of 64
};

// The peak of one kind of multiply-add, in chains that do not wait for each other.
struct PeakProducts {
    static constexpr std::string_view name = "peak_products";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"out", Kind::output},
        {"kind", Kind::integer},
        {"rounds", Kind::integer},
    };
    enum Product : int64_t { f32 = 0, bf16 = 1, int8 = 2 };
    int64_t cost() const { return rounds << 16; }  // what memory gives in that time

    // (size, 8): rank r leaves in [r][0] how many operations it did (a multiply-add is two), and in [r][1] what
    // came of them. An instruction set without products of a kind does what its kernels do instead.
    int64_t* out;
    int64_t kind;    // Product
    int64_t rounds;  // at least 1: about 2 us each
};

}  // namespace ozone
