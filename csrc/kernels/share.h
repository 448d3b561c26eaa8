// How work is divided among ranks.
#pragma once

#include <cstdint>

namespace ozone::OZONE_ISA {

struct Share {
    int64_t begin, end;
};

// The part of `count` items that belongs to `rank`: contiguous, and equal to within one `unit`, so that no two
// ranks write to the same cache line where a unit covers one.
inline Share share_of(int64_t count, int rank, int size, int64_t unit = 1) {
    const int64_t units = (count + unit - 1) / unit;
    const int64_t begin = units * rank / size * unit, end = units * (rank + 1) / size * unit;
    return {begin < count ? begin : count, end < count ? end : count};
}

}  // namespace ozone::OZONE_ISA
