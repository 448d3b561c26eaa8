#include "runtime/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(begin, size) ((void)(begin), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(begin, size) ((void)(begin), (void)(size))
#endif

namespace ozone {
namespace {

constexpr size_t kHugePage = 2 << 20;
// Smaller regions share mappings of this size, since a huge page that belongs to one of them would be wasted.
constexpr size_t kSharedMapping = 32 << 20;

// No system has this much memory, and sums of it with pages stay within size_t.
constexpr size_t kMostBytes = SIZE_MAX / 4;

size_t round_up(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

// What a region takes up: at least a page, so that empty regions have addresses of their own too. Under the address
// sanitizer, some of it lies behind the region's end and is forbidden.
size_t footprint(size_t size) {
#if defined(__SANITIZE_ADDRESS__)
    constexpr size_t kForbidden = 256;
#else
    constexpr size_t kForbidden = 0;
#endif
    static const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return round_up((size ? size : 1) + kForbidden, page);
}

// Zeros at a multiple of a huge page. `size` is a multiple of a page.
std::byte* map_memory(size_t size) {
    void* memory =
        mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    auto* begin = static_cast<std::byte*>(memory);
    auto* aligned = reinterpret_cast<std::byte*>(round_up(reinterpret_cast<uintptr_t>(begin), kHugePage));
    const size_t before = static_cast<size_t>(aligned - begin);
    if (before) munmap(begin, before);
    munmap(aligned + size, kHugePage - before);
#if defined(MADV_HUGEPAGE)
    madvise(aligned, size, MADV_HUGEPAGE);  // a refusal costs speed, not results
#endif
    return aligned;
}

struct Mapping {
    size_t size, used;  // bytes
    int regions;        // that lie in it
};

struct Table {
    std::mutex mutex;
    std::map<const std::byte*, Region> by_base;
    std::map<std::byte*, Mapping> mappings;
    std::byte* shared = nullptr;  // where the next small region goes, if there is room
    uint32_t next_id = 1;

    // `size` is a multiple of a page.
    std::byte* take(size_t size) {
        const bool small = size <= kSharedMapping / 2;
        if (small && shared && mappings[shared].size - mappings[shared].used >= size) {
            Mapping& mapping = mappings[shared];
            std::byte* base = shared + mapping.used;
            mapping.used += size;
            ++mapping.regions;
            return base;
        }
        const size_t mapped = small ? kSharedMapping : size;
        std::byte* base = map_memory(mapped);
        mappings[base] = {mapped, size, 1};
        if (small) shared = base;
        return base;
    }

    void give_back(std::byte* base, size_t size) {
        const auto it = std::prev(mappings.upper_bound(base));
        if (--it->second.regions > 0) {
            madvise(base, size, MADV_DONTNEED);  // whoever else lives in the mapping keeps it
            ASAN_POISON_MEMORY_REGION(base, size);  // nobody else gets this part of it
            return;
        }
        ASAN_UNPOISON_MEMORY_REGION(it->first, it->second.size);  // the system may give it to somebody
        munmap(it->first, it->second.size);
        if (shared == it->first) shared = nullptr;
        mappings.erase(it);
    }
};

Table& table() {
    static Table* regions = new Table;  // never destroyed: arrays over regions may outlive static objects
    return *regions;
}

}  // namespace

Region allocate_region(std::string name, size_t size) {
    if (size > kMostBytes) throw std::bad_alloc();
    Table& all = table();
    const std::lock_guard lock(all.mutex);
    std::byte* base = all.take(footprint(size));
    ASAN_POISON_MEMORY_REGION(base + size, footprint(size) - size);
    Region region{all.next_id++, std::move(name), base, size};
    all.by_base.emplace(region.base, region);
    return region;
}

void release_region(uint32_t id) {
    Table& all = table();
    const std::lock_guard lock(all.mutex);
    for (auto it = all.by_base.begin(); it != all.by_base.end(); ++it) {
        if (it->second.id != id) continue;
        all.give_back(it->second.base, footprint(it->second.size));
        all.by_base.erase(it);
        return;
    }
}

std::vector<Region> regions() {
    Table& all = table();
    const std::lock_guard lock(all.mutex);
    std::vector<Region> result;
    for (const auto& [base, region] : all.by_base) result.push_back(region);
    return result;
}

std::optional<Location> locate(const void* address) {
    Table& all = table();
    const std::lock_guard lock(all.mutex);
    const auto* byte = static_cast<const std::byte*>(address);
    auto it = all.by_base.upper_bound(byte);
    if (it == all.by_base.begin()) return std::nullopt;
    const Region& region = std::prev(it)->second;
    const auto offset = static_cast<uint64_t>(byte - region.base);
    if (offset >= region.size) return std::nullopt;
    return Location{region.id, offset};
}

}  // namespace ozone
