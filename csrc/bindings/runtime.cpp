#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <limits>
#include <stdexcept>
#include <utility>

#include "bindings/bindings.h"
#include "runtime/isa.h"
#include "runtime/memory.h"
#include "runtime/team.h"
#include "runtime/ways.h"

namespace nb = nanobind;

namespace ozone {
namespace {

using Bytes = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;

Bytes allocate(const std::string& name, size_t size) {
    const Region region = allocate_region(name, size);
    nb::capsule owner(reinterpret_cast<void*>(static_cast<uintptr_t>(region.id)), [](void* id) noexcept {
        release_region(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(id)));
    });
    return Bytes(region.base, {size}, owner);
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (int i = 0; i <= static_cast<int>(best_isa()); ++i)
        names.emplace_back(isa_name(static_cast<Isa>(i)));
    return names;
}

void set_isa_by_name(std::string_view name) {
    for (int i = 0; i < kIsas; ++i)
        if (isa_name(static_cast<Isa>(i)) == name && set_isa(static_cast<Isa>(i))) return;
    throw std::invalid_argument("no such instruction set here: " + std::string(name));
}

using Spans = std::vector<std::pair<int64_t, int>>;
using Shapes = std::vector<std::pair<uint64_t, Spans>>;

void set_ways_of(const Shapes& shapes) {
    std::vector<ShapeWays> all;
    for (const auto& [shape, spans] : shapes) {
        all.push_back({shape, {}});
        for (const auto& [last, way] : spans) all.back().spans.push_back({last, way});
    }
    set_ways(std::move(all));
}

Shapes shapes_with_ways() {
    Shapes all;
    for (const ShapeWays& shape : ways()) {
        all.emplace_back(shape.shape, Spans{});
        for (const WaySpan& span : shape.spans) all.back().second.emplace_back(span.last, span.way);
    }
    return all;
}

}  // namespace

void bind_runtime(nb::module_& m) {
    active_isa();  // decided now: a launch that did so first might be under way while another thread forks
    m.def("isas", isas, "Instruction sets that this machine and build have, the best one last.");
    m.def("isa", [] { return std::string(isa_name(active_isa())); }, "The one that kernels run with.");
    m.def("set_isa", set_isa_by_name, nb::arg("name"), "Choose it. ValueError for one that is not there.");

    m.def("num_threads", [] { return num_threads(); }, "Size of the thread team.");
    m.def("set_num_threads", set_num_threads, nb::arg("size"), nb::call_guard<WithoutGil>(),
          "Replace the thread team, after the launch that is under way.");

    m.attr("NO_END") = std::numeric_limits<int64_t>::max();
    m.def("set_ways", set_ways_of, nb::arg("shapes"),
          "Replace the ways that launches of the calling thread take, (shape, [(last row count, way), ...]) for each "
          "shape; the last span ends at NO_END. Other shapes take their kernel's first way. ValueError for spans that are not in order.");
    m.def("ways", shapes_with_ways, "What `set_ways` was given in this thread, by shape.");

    m.def("allocate", allocate, nb::arg("name"), nb::arg("size"),
          "A memory region of zeros as an array of bytes, released with the last array over it.");
    m.def(
        "regions",
        [] {
            nb::list result;
            for (const Region& region : regions())
                result.append(nb::make_tuple(region.id, region.name, region.size));
            return result;
        },
        "(id, name, bytes) of every region.");
    m.def(
        "locate",
        [](uintptr_t address) -> nb::object {
            const auto found = locate(reinterpret_cast<const void*>(address));
            if (!found) return nb::none();
            return nb::make_tuple(found->region, found->offset);
        },
        nb::arg("address"), "(region id, offset) of an address, or None where no region holds it.");
}

}  // namespace ozone
