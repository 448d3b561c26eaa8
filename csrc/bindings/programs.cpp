// Recordings of launches, and programs made of them, for Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "bindings/bindings.h"
#include "bindings/launches.h"
#include "runtime/launch.h"
#include "runtime/ways.h"

namespace nb = nanobind;

namespace ozone {

thread_local std::shared_ptr<Launches> recording;

void Launches::add(const Kernel& kernel, const uint64_t* params) {
    const std::lock_guard lock(mutex_);
    made_.push_back({&kernel, values_.size()});
    values_.insert(values_.end(), params, params + kernel.fields.size());
}

void Launches::run() const {
    const std::lock_guard lock(mutex_);
    for (const Made& made : made_) launch(*made.kernel, values_.data() + made.first);
}

std::vector<uint64_t> Launches::times(int64_t repeats) const {
    using Clock = std::chrono::steady_clock;
    if (repeats < 0) throw std::invalid_argument("repeats is negative");
    std::vector<uint64_t> nanoseconds(static_cast<size_t>(repeats));
    for (uint64_t& time : nanoseconds) {
        const auto start = Clock::now();
        run();
        time = static_cast<uint64_t>(std::chrono::nanoseconds(Clock::now() - start).count());
    }
    return nanoseconds;
}

Program Launches::store(const BatchHeader& header, std::span<const Span> spans) const {
    Program program;
    const std::lock_guard lock(mutex_);
    for (const Made& made : made_)
        program.launches.push_back(ozone::store(*made.kernel, values_.data() + made.first, header, spans));
    return program;
}

std::vector<std::string_view> Launches::ways() const {
    std::vector<std::string_view> names;
    const std::lock_guard lock(mutex_);
    for (const Made& made : made_) {
        const Kernel& kernel = *made.kernel;
        const auto way = static_cast<size_t>(way_of(kernel, values_.data() + made.first));
        names.push_back(kernel.ways.empty() ? std::string_view{} : kernel.ways[way]);
    }
    return names;
}

std::vector<uint64_t> Launches::shapes() const {
    std::vector<uint64_t> shapes;
    const std::lock_guard lock(mutex_);
    for (const Made& made : made_) shapes.push_back(shape_of(*made.kernel, values_.data() + made.first));
    return shapes;
}

size_t Launches::size() const {
    const std::lock_guard lock(mutex_);
    return made_.size();
}

namespace {

struct PyLaunches {
    std::shared_ptr<Launches> launches = std::make_shared<Launches>();
};

using Counts = std::vector<int64_t>;
using Memory = std::vector<std::pair<uintptr_t, size_t>>;

BatchHeader header_of(const Counts& counts) {
    BatchHeader header;
    if (counts.size() != kNumCounts)
        throw std::invalid_argument("a batch header has " + std::to_string(kNumCounts) + " counts");
    std::memcpy(&header, counts.data(), sizeof header);
    return header;
}

std::vector<Span> spans_of(const Memory& memory) {
    std::vector<Span> spans;
    for (const auto& [address, size] : memory) spans.push_back({reinterpret_cast<std::byte*>(address), size});
    return spans;
}

nb::object number(Kind kind, uint64_t bits) {
    if (kind != Kind::real) return nb::int_(static_cast<int64_t>(bits));
    double real;
    std::memcpy(&real, &bits, 8);
    return nb::float_(real);
}

nb::list launches_of(const Program& self) {
    nb::list launches;
    for (const StoredLaunch& stored : self.launches) {
        const Kernel& kernel = kernel_of(stored);
        nb::list fields;
        for (size_t i = 0; i < stored.fields.size(); ++i) {
            const StoredField& field = stored.fields[i];
            fields.append(nb::make_tuple(field.where, number(kernel.fields[i].kind, field.value)));
        }
        launches.append(nb::make_tuple(nb::str(kernel.name.data()), nb::tuple(fields)));
    }
    return launches;
}

nb::bytes words_of(const Program& self) {
    const std::vector<uint64_t> words = self.words();
    return nb::bytes(words.data(), words.size() * 8);
}

Program from_words(const nb::bytes& bytes) {
    if (bytes.size() % 8 != 0) throw std::invalid_argument("a stored program consists of 8-byte words");
    std::vector<uint64_t> words(bytes.size() / 8);
    if (!words.empty()) std::memcpy(words.data(), bytes.data(), bytes.size());
    return Program::from_words(words);
}

nb::list nodes_of(BoundProgram& self, const Counts& counts) {
    nb::list nodes;
    const BatchHeader header = header_of(counts);
    for (size_t node = 0; node < self.size(); ++node) {
        const Kernel& kernel = self.kernel(node);
        nb::list values;
        const std::vector<uint64_t> fields = self.fields(node, header);
        for (size_t i = 0; i < fields.size(); ++i) values.append(number(kernel.fields[i].kind, fields[i]));
        nodes.append(nb::make_tuple(nb::str(kernel.name.data()), nb::tuple(values)));
    }
    return nodes;
}

}  // namespace

void bind_programs(nb::module_& m) {
    nb::list names;
    for (const std::string_view name : kBatchCounts) names.append(nb::str(name.data()));
    m.attr("BATCH_COUNTS") = nb::tuple(names);

    nb::class_<PyLaunches>(m, "Launches", "Launches, recorded in order.")
        .def(nb::init<>())
        .def(
            "record",
            [](const PyLaunches& self, bool dry) {
                self.launches->dry = dry;
                recording = self.launches;
            },
            nb::arg("dry") = false,
            "Add what this thread launches on the team from now on, instead of running it where it is a dry run.")
        .def_static("stop", [] { recording.reset(); }, "End the recording of this thread.")
        .def(
            "run",
            [](const PyLaunches& self, int way) {
                const WithWay with(way);
                self.launches->run();
            },
            nb::arg("way") = -1, nb::call_guard<WithoutGil>(),
            "Make all of them again. `way`: by its place in a kernel's `ways`; -1: as chosen.")
        .def(
            "ways",
            [](const PyLaunches& self) {
                nb::list names;
                for (const std::string_view name : self.launches->ways()) names.append(nb::str(name.data(), name.size()));
                return names;
            },
            "The way that each launch would take now; empty for kernels that have but one.")
        .def("shapes", [](const PyLaunches& self) { return self.launches->shapes(); },
             "What `set_ways` knows each launch by.")
        .def("times", [](const PyLaunches& self, int64_t repeats) { return self.launches->times(repeats); },
             nb::arg("repeats"), nb::call_guard<WithoutGil>(), "Make all of them again, so often; nanoseconds of each time.")
        .def(
            "store",
            [](const PyLaunches& self, const Counts& header, const Memory& memory) {
                return self.launches->store(header_of(header), spans_of(memory));
            },
            nb::arg("header"), nb::arg("memory"),
            "As a program, see runtime/stored_launch.h. `memory`: (address, bytes) of each span. ValueError where a "
            "launch cannot be stored.")
        .def("__len__", [](const PyLaunches& self) { return self.launches->size(); });

    nb::class_<Program>(m, "Program", "Launches in order, without an address.")
        .def_static("from_words", from_words, nb::arg("words"), "ValueError for what `words` never gave.")
        .def_prop_ro("words", words_of, "As bytes that can be kept.")
        .def_prop_ro("launches", launches_of,
                     "(kernel, (where, value) of each field) of each, see runtime/stored_launch.h.")
        .def(
            "bind",
            [](const Program& self, const Memory& memory) { return BoundProgram(self, spans_of(memory)); },
            nb::arg("memory"), "Over the memory with these (address, bytes). ValueError where it does not fit.")
        .def("__len__", [](const Program& self) { return self.launches.size(); });

    nb::class_<BoundProgram>(m, "BoundProgram", "A program over memory, which has to outlive it.")
        .def(
            "run",
            [](BoundProgram& self, int64_t tokens, int64_t requests, int64_t logits) {
                const WithoutGil release;
                self.run({tokens, requests, logits});
            },
            nb::arg("num_tokens"), nb::arg("num_requests"), nb::arg("num_logits"),
            "Run it for a batch, launch by launch.")
        .def(
            "replay",
            [](BoundProgram& self, int64_t tokens, int64_t requests, int64_t logits) {
                const WithoutGil release;
                self.replay({tokens, requests, logits});
            },
            nb::arg("num_tokens"), nb::arg("num_requests"), nb::arg("num_logits"),
            "Run it for a batch in one launch, inside the thread team.")
        .def(
            "times",
            [](BoundProgram& self, const Counts& counts, int way) {
                const BatchHeader header = header_of(counts);
                const WithoutGil release;
                const WithWay with(way);
                return self.times(header);
            },
            nb::arg("header"), nb::arg("way") = -1,
            "Replay it; nanoseconds of each node. `way`: by its place in a kernel's `ways`; -1: as chosen.")
        .def("nodes", nodes_of, nb::arg("header"), "(kernel, values of its fields) of each, for a batch.")
        .def(
            "shapes",
            [](BoundProgram& self) {
                nb::list shapes;
                for (size_t node = 0; node < self.size(); ++node) {
                    const std::vector<uint64_t> fields = self.fields(node, BatchHeader{});
                    shapes.append(shape_of(self.kernel(node), fields.data()));
                }
                return shapes;
            },
            "What `set_ways` knows each launch by.")
        .def("__len__", &BoundProgram::size);
}

}  // namespace ozone
