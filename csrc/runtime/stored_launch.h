// A launch without an address in it: what a program is made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/batch_header.h"
#include "runtime/kernel.h"

namespace ozone {

// Memory that a program's pointers point into. They name it by its place in a list, which is the same in every
// process: first the inputs, say, then the weights in their order, then a pool.
struct Span {
    std::byte* base;
    size_t size;
};

// A field of a kernel's parameters. What `where` and `value` are depends on the field's kind:
// pointer: 1 + the index of a span (0: null) and an offset into it; count: an index into the batch header and a
// factor; number: 0 and its bits.
struct StoredField {
    uint64_t where, value;
};

struct StoredLaunch {
    uint32_t kernel, version;
    std::vector<StoredField> fields;  // one for each of the kernel's
};

// Stores a launch. `header` is what the batch looks like: a count of the launch has to be a multiple of exactly one
// number in it, so numbers without a common divisor that differ from 1 and from every factor serve best.
// Throws std::invalid_argument, which names kernel and field, for a pointer into no span and for a count that
// comes from no field of the header or may come from several.
StoredLaunch store(const Kernel& kernel, const void* params, const BatchHeader& header, std::span<const Span> spans);

// The kernel of a stored launch. Throws std::invalid_argument where this library has none of that id and version.
const Kernel& kernel_of(const StoredLaunch& launch);

// The address that a pointer field stands for. Throws std::invalid_argument for a span or offset that is not there.
uint64_t address_of(const StoredField& field, std::span<const Span> spans);

}  // namespace ozone
