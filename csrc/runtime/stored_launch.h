// A launch without an address in it: what a program is made of.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/batch_header.h"
#include "runtime/kernel.h"

namespace ozone {

// A field of a kernel's parameters. What `where` and `value` are depends on the field's kind:
// pointer: the id of a region (0: null) and an offset into it; count: an index into the batch header and a factor;
// number: 0 and its bits.
struct StoredField {
    uint64_t where, value;
};

struct StoredLaunch {
    uint32_t kernel, version;
    std::vector<StoredField> fields;  // one for each of the kernel's
};

// Stores a launch. `header` is what the batch looks like: a count of the launch has to be a multiple of exactly one
// number in it, so numbers without a common divisor that differ from 1 and from every factor serve best.
// Throws std::invalid_argument, which names kernel and field, for a pointer into no region and for a count that
// comes from no field of the header or may come from several.
StoredLaunch store(const Kernel& kernel, const void* params, const BatchHeader& header);

// The parameters of the stored launch for a batch that looks like `header`, 8 bytes for each field.
// Throws std::invalid_argument for a kernel or version that is not there, and a region that is not.
std::vector<uint64_t> restore(const StoredLaunch& launch, const BatchHeader& header);

}  // namespace ozone
