#include "runtime/ways.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

namespace ozone {
namespace {

constexpr int64_t kNoEnd = std::numeric_limits<int64_t>::max();

thread_local int forced = -1;
// Few shapes, looked up by hundreds of launches a step: sorted.
thread_local std::vector<ShapeWays> table;

uint64_t mixed(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

}  // namespace

uint64_t shape_of(const Kernel& kernel, const void* params) {
    const auto* values = static_cast<const std::byte*>(params);
    uint64_t hash = kernel.id;
    for (uint64_t left = kernel.shape_fields; left; left &= left - 1) {
        uint64_t value;
        std::memcpy(&value, values + 8 * std::countr_zero(left), 8);
        hash = mixed(hash, value);
    }
    return hash;
}

int way_of(const Kernel& kernel, const void* params) {
    const int count = static_cast<int>(kernel.ways.size());
    if (count < 2) return 0;
    if (forced >= 0) return forced < count ? forced : 0;
    if (table.empty()) return 0;
    const uint64_t shape = shape_of(kernel, params);
    const auto found = std::lower_bound(table.begin(), table.end(), shape,
                                        [](const ShapeWays& a, uint64_t b) { return a.shape < b; });
    if (found == table.end() || found->shape != shape) return 0;
    int64_t rows;
    std::memcpy(&rows, static_cast<const std::byte*>(params) + 8 * kernel.rows_field, 8);
    for (const WaySpan& span : found->spans)
        if (rows <= span.last) return span.way < count ? span.way : 0;
    return 0;
}

void set_ways(std::vector<ShapeWays> shapes) {
    for (const ShapeWays& ways : shapes) {
        int64_t before = 0;
        for (const WaySpan& span : ways.spans) {
            if (span.last <= before || span.way < 0)
                throw std::invalid_argument("spans of ways are not in order, or a way is below zero");
            before = span.last;
        }
        if (before != kNoEnd) throw std::invalid_argument("the last span of ways has an end");
    }
    std::sort(shapes.begin(), shapes.end(), [](const ShapeWays& a, const ShapeWays& b) { return a.shape < b.shape; });
    table = std::move(shapes);
}

const std::vector<ShapeWays>& ways() { return table; }

WithWay::WithWay(int way) : before_(forced) { forced = way; }
WithWay::~WithWay() { forced = before_; }

}  // namespace ozone
