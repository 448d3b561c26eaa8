#include "runtime/stored_launch.h"

#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>

namespace ozone {
namespace {

std::string quoted(const Kernel& kernel, const Field& field) {
    return std::string(kernel.name) + ": field " + std::string(field.name);
}

StoredField store_pointer(const Kernel& kernel, const Field& field, uint64_t address, std::span<const Span> spans) {
    if (address == 0) return {0, 0};
    for (size_t i = 0; i < spans.size(); ++i) {
        const auto base = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(spans[i].base));
        if (address >= base && address - base < spans[i].size) return {i + 1, address - base};
    }
    throw std::invalid_argument(quoted(kernel, field) + " points into no memory of the program");
}

StoredField store_count(const Kernel& kernel, const Field& field, int64_t count, const BatchHeader& header) {
    int64_t counts[kNumCounts];
    std::memcpy(counts, &header, sizeof header);
    std::optional<StoredField> found;
    for (size_t i = 0; i < kNumCounts; ++i) {
        if (count < 1 || counts[i] < 1 || count % counts[i] != 0) continue;
        if (found)
            throw std::invalid_argument(quoted(kernel, field) + " is " + std::to_string(count) + ", a multiple of " +
                                        std::string(kBatchCounts[found->where]) + " and of " +
                                        std::string(kBatchCounts[i]));
        found = StoredField{i, static_cast<uint64_t>(count / counts[i])};
    }
    if (!found)
        throw std::invalid_argument(quoted(kernel, field) + " is " + std::to_string(count) +
                                    ", a multiple of nothing in the batch's header");
    return *found;
}

}  // namespace

StoredLaunch store(const Kernel& kernel, const void* params, const BatchHeader& header, std::span<const Span> spans) {
    StoredLaunch launch{kernel.id, kernel.version, {}};
    const auto* values = static_cast<const std::byte*>(params);
    for (const Field& field : kernel.fields) {
        uint64_t value;
        std::memcpy(&value, values, 8);
        values += 8;
        if (is_pointer(field.kind)) launch.fields.push_back(store_pointer(kernel, field, value, spans));
        else if (field.kind == Kind::count)
            launch.fields.push_back(store_count(kernel, field, static_cast<int64_t>(value), header));
        else launch.fields.push_back({0, value});
    }
    return launch;
}

const Kernel& kernel_of(const StoredLaunch& launch) {
    for (const Kernel& kernel : kernels())
        if (kernel.id == launch.kernel && kernel.version == launch.version) {
            if (kernel.fields.size() == launch.fields.size()) return kernel;
            break;
        }
    throw std::invalid_argument("a stored launch is of a kernel that this library does not have");
}

uint64_t address_of(const StoredField& field, std::span<const Span> spans) {
    if (field.where == 0) return 0;
    if (field.where > spans.size() || field.value >= spans[field.where - 1].size)
        throw std::invalid_argument("a stored launch needs memory that is not there or smaller");
    return static_cast<uint64_t>(reinterpret_cast<uintptr_t>(spans[field.where - 1].base + field.value));
}

}  // namespace ozone
