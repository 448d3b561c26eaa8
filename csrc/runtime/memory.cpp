#include "runtime/memory.h"

#include <sys/mman.h>

#include <map>
#include <mutex>
#include <new>
#include <utility>

namespace ozone {
namespace {

struct Table {
    std::mutex mutex;
    std::map<const std::byte*, Region> by_base;
    uint32_t next_id = 1;
};

Table& table() {
    static Table* regions = new Table;  // never destroyed: arrays over regions may outlive static objects
    return *regions;
}

}  // namespace

Region allocate_region(std::string name, size_t size) {
    // One byte more than nothing, so that empty regions have addresses of their own too.
    void* memory = mmap(nullptr, size ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    Table& all = table();
    const std::lock_guard lock(all.mutex);
    Region region{all.next_id++, std::move(name), static_cast<std::byte*>(memory), size};
    all.by_base.emplace(region.base, region);
    return region;
}

void release_region(uint32_t id) {
    Table& all = table();
    const std::lock_guard lock(all.mutex);
    for (auto it = all.by_base.begin(); it != all.by_base.end(); ++it) {
        if (it->second.id != id) continue;
        munmap(it->second.base, it->second.size ? it->second.size : 1);
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
