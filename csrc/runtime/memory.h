// Memory regions: the runtime owns what kernels work on (packed weights, KV cache, static inputs, pools), so
// that an address can be stored as a region and an offset, and found again in another process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ozone {

struct Region {
    uint32_t id;       // never reused in a process
    std::string name;  // what it is for, e.g. "weights"
    std::byte* base;   // page-aligned
    size_t size;       // in bytes
};

struct Location {
    uint32_t region;
    uint64_t offset;
};

// A region of zeros, given memory by the system where it is first touched: in huge pages, where it has them, so
// that reading gigabytes does not wait for address translation. Small regions lie side by side, in the order in
// which they were asked for. Throws std::bad_alloc.
Region allocate_region(std::string name, size_t size);

// Unmaps the region. Nothing may point into it any more.
void release_region(uint32_t id);

std::vector<Region> regions();

// Where an address lies, or nothing where no region holds it.
std::optional<Location> locate(const void* address);

}  // namespace ozone
