// What varies from step to step, in one place: programs read their counts from it.
#pragma once

#include <cstdint>
#include <iterator>
#include <string_view>

namespace ozone {

struct BatchHeader {
    int64_t num_tokens;    // tokens computed in this step
    int64_t num_requests;  // whose tokens they are
    int64_t num_logits;    // rows of logits wanted
};

// Its fields in order.
inline constexpr std::string_view kBatchCounts[] = {"num_tokens", "num_requests", "num_logits"};
inline constexpr size_t kNumCounts = std::size(kBatchCounts);
static_assert(sizeof(BatchHeader) == 8 * kNumCounts);

}  // namespace ozone
