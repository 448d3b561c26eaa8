#include "runtime/stored_launch.h"

#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>

#include "runtime/memory.h"

namespace ozone {
namespace {

constexpr size_t kCounts = std::size(kBatchCounts);

int64_t count_of(const BatchHeader& header, size_t index) {
    int64_t counts[kCounts];
    std::memcpy(counts, &header, sizeof header);
    return counts[index];
}

std::string quoted(const Kernel& kernel, const Field& field) {
    return std::string(kernel.name) + ": field " + std::string(field.name);
}

StoredField store_pointer(const Kernel& kernel, const Field& field, uint64_t address) {
    if (address == 0) return {0, 0};
    const auto location = locate(reinterpret_cast<const void*>(static_cast<uintptr_t>(address)));
    if (!location) throw std::invalid_argument(quoted(kernel, field) + " points into no region");
    return {location->region, location->offset};
}

StoredField store_count(const Kernel& kernel, const Field& field, int64_t count, const BatchHeader& header) {
    std::optional<StoredField> found;
    for (size_t i = 0; i < kCounts; ++i) {
        const int64_t unit = count_of(header, i);
        if (count < 1 || unit < 1 || count % unit != 0) continue;
        if (found)
            throw std::invalid_argument(quoted(kernel, field) + " is " + std::to_string(count) + ", a multiple of " +
                                        std::string(kBatchCounts[found->where]) + " and of " +
                                        std::string(kBatchCounts[i]));
        found = StoredField{i, static_cast<uint64_t>(count / unit)};
    }
    if (!found)
        throw std::invalid_argument(quoted(kernel, field) + " is " + std::to_string(count) +
                                    ", a multiple of nothing in the batch's header");
    return *found;
}

uint64_t address_of(const StoredField& field, const std::vector<Region>& regions) {
    if (field.where == 0) return 0;
    for (const Region& region : regions)
        if (region.id == field.where && field.value < region.size)
            return static_cast<uint64_t>(reinterpret_cast<uintptr_t>(region.base + field.value));
    throw std::invalid_argument("a stored launch needs region " + std::to_string(field.where) +
                                ", which is not there or smaller");
}

}  // namespace

StoredLaunch store(const Kernel& kernel, const void* params, const BatchHeader& header) {
    StoredLaunch launch{kernel.id, kernel.version, {}};
    const auto* values = static_cast<const std::byte*>(params);
    for (const Field& field : kernel.fields) {
        uint64_t value;
        std::memcpy(&value, values, 8);
        values += 8;
        if (is_pointer(field.kind)) launch.fields.push_back(store_pointer(kernel, field, value));
        else if (field.kind == Kind::count)
            launch.fields.push_back(store_count(kernel, field, static_cast<int64_t>(value), header));
        else launch.fields.push_back({0, value});
    }
    return launch;
}

std::vector<uint64_t> restore(const StoredLaunch& launch, const BatchHeader& header) {
    const Kernel* kernel = nullptr;
    for (const Kernel& candidate : kernels())
        if (candidate.id == launch.kernel && candidate.version == launch.version) kernel = &candidate;
    if (!kernel || kernel->fields.size() != launch.fields.size())
        throw std::invalid_argument("a stored launch is of a kernel that this library does not have");
    const std::vector<Region> all = regions();
    std::vector<uint64_t> params;
    for (size_t i = 0; i < launch.fields.size(); ++i) {
        const StoredField& field = launch.fields[i];
        const Kind kind = kernel->fields[i].kind;
        if (is_pointer(kind)) params.push_back(address_of(field, all));
        else if (kind == Kind::count) {
            if (field.where >= kCounts) throw std::invalid_argument("a stored launch has a count of no batch header");
            params.push_back(field.value * static_cast<uint64_t>(count_of(header, field.where)));
        } else params.push_back(field.value);
    }
    return params;
}

}  // namespace ozone
