// Kernels as Python callables: one positional argument for each field, addresses and counts as integers.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "runtime/kernel.h"
#include "runtime/launch.h"
#include "runtime/stored_launch.h"

namespace nb = nanobind;

namespace ozone {
namespace {

constexpr size_t kMaxFields = 48;
// Launches that move less than this keep the GIL: to give it up and get it back can cost more than the work.
constexpr int64_t kKeepGilBelowBytes = 256 << 10;

struct PyKernel {
    const Kernel* kernel;
};

struct Slots {
    uint64_t values[kMaxFields];
};

void fill(const Kernel& kernel, const nb::args& args, Slots& slots) {
    PyObject* tuple = args.ptr();
    const size_t count = kernel.fields.size();
    if (static_cast<size_t>(PyTuple_GET_SIZE(tuple)) != count)
        throw nb::type_error((std::string(kernel.name) + " takes " + std::to_string(count) + " arguments, not " +
                              std::to_string(PyTuple_GET_SIZE(tuple)))
                                 .c_str());
    for (size_t i = 0; i < count; ++i) {
        PyObject* value = PyTuple_GET_ITEM(tuple, i);
        if (kernel.fields[i].kind == Kind::real) {
            const double number = PyFloat_AsDouble(value);
            std::memcpy(&slots.values[i], &number, 8);
        } else {
            const long long number = PyLong_AsLongLong(value);
            std::memcpy(&slots.values[i], &number, 8);
        }
    }
    if (PyErr_Occurred()) throw nb::python_error();
}

// Launches that can be made again, one after another without Python in between. Addresses are kept as they are:
// whoever records keeps alive what they point to.
class Launches {
  public:
    void add(const Kernel& kernel, const Slots& slots) {
        made_.push_back({&kernel, values_.size()});
        values_.insert(values_.end(), slots.values, slots.values + kernel.fields.size());
    }

    void run() const {
        for (const Made& launched : made_) launch(*launched.kernel, values_.data() + launched.first);
    }

    std::vector<uint64_t> times(int64_t repeats) const {
        using Clock = std::chrono::steady_clock;
        std::vector<uint64_t> nanoseconds(static_cast<size_t>(repeats));
        for (uint64_t& time : nanoseconds) {
            const auto start = Clock::now();
            run();
            time = static_cast<uint64_t>(std::chrono::nanoseconds(Clock::now() - start).count());
        }
        return nanoseconds;
    }

    size_t size() const { return made_.size(); }

  private:
    struct Made {
        const Kernel* kernel;
        size_t first;  // of its values
    };
    std::vector<Made> made_;
    std::vector<uint64_t> values_;
};

thread_local Launches* recording = nullptr;

void launch_and_record(const Kernel& kernel, const void* params) {
    if (recording) recording->add(kernel, *static_cast<const Slots*>(params));
    launch(kernel, params);
}

template <void (*run)(const Kernel&, const void*)>
void call(const PyKernel& self, const nb::args& args) {
    Slots slots;
    fill(*self.kernel, args, slots);
    if (self.kernel->cost(&slots) < kKeepGilBelowBytes) return run(*self.kernel, &slots);
    const WithoutGil release;
    run(*self.kernel, &slots);
}

BatchHeader header_of(const std::vector<int64_t>& counts) {
    BatchHeader header;
    if (counts.size() * 8 != sizeof header)
        throw std::invalid_argument("a batch header has " + std::to_string(sizeof header / 8) + " counts");
    std::memcpy(&header, counts.data(), sizeof header);
    return header;
}

StoredLaunch store_call(const PyKernel& self, const std::vector<int64_t>& header, const nb::args& args) {
    Slots slots;
    fill(*self.kernel, args, slots);
    return store(*self.kernel, &slots, header_of(header));
}

nb::tuple restore_call(const PyKernel& self, const StoredLaunch& launch, const std::vector<int64_t>& header) {
    if (launch.kernel != self.kernel->id) throw std::invalid_argument("a launch of another kernel");
    nb::list values;
    const std::vector<uint64_t> params = restore(launch, header_of(header));
    for (size_t i = 0; i < params.size(); ++i) {
        double number;
        std::memcpy(&number, &params[i], 8);
        if (self.kernel->fields[i].kind == Kind::real) values.append(number);
        else values.append(static_cast<int64_t>(params[i]));
    }
    return nb::tuple(values);
}

const char* kind_name(Kind kind) {
    constexpr const char* names[] = {"input", "output", "state", "count", "integer", "real"};
    return names[static_cast<int>(kind)];
}

}  // namespace

void bind_kernels(nb::module_& m) {
    nb::class_<PyKernel>(m, "Kernel", "A kernel of the library.")
        .def_prop_ro("name", [](const PyKernel& self) { return nb::str(self.kernel->name.data()); })
        .def_prop_ro("id", [](const PyKernel& self) { return self.kernel->id; })
        .def_prop_ro("version", [](const PyKernel& self) { return self.kernel->version; })
        .def_prop_ro(
            "fields",
            [](const PyKernel& self) {
                nb::list result;
                for (const Field& field : self.kernel->fields)
                    result.append(nb::make_tuple(nb::str(field.name.data()), kind_name(field.kind)));
                return nb::tuple(result);
            },
            "(name, kind) of each field.")
        .def("__call__", call<launch_and_record>, "Launch it on the thread team.")
        .def("alone", call<launch_alone>, "Run it on the calling thread.")
        .def("store", store_call, nb::arg("header"), nb::arg("fields"),
             "Store a launch without an address; see runtime/stored_launch.h. ValueError where that cannot be.")
        .def("restore", restore_call, nb::arg("launch"), nb::arg("header"),
             "The fields of a stored launch for a batch.");
    nb::class_<StoredLaunch>(m, "StoredLaunch", "A launch without an address in it.")
        .def_ro("kernel", &StoredLaunch::kernel)
        .def_ro("version", &StoredLaunch::version)
        .def_prop_ro(
            "fields",
            [](const StoredLaunch& self) {
                nb::list result;
                for (const StoredField& field : self.fields)
                    result.append(nb::make_tuple(field.where, field.value));
                return nb::tuple(result);
            },
            "(where, value) of each field.");
    {
        nb::list names;
        for (const std::string_view name : kBatchCounts) names.append(nb::str(name.data()));
        m.attr("BATCH_COUNTS") = nb::tuple(names);
    }
    nb::class_<Launches>(m, "Launches", "Launches of one thread, recorded in order.")
        .def(nb::init<>())
        .def("record", [](Launches& self) { recording = &self; },
             "Add the launches that this thread makes on the team from now on; they are made as well.")
        .def_static("stop", [] { recording = nullptr; }, "End the recording of this thread.")
        .def("run", &Launches::run, nb::call_guard<WithoutGil>(), "Make all of them again.")
        .def("times", &Launches::times, nb::arg("repeats"), nb::call_guard<WithoutGil>(),
             "Make all of them again, so often; nanoseconds of each time.")
        .def("__len__", &Launches::size);
    m.def(
        "kernels",
        [] {
            nb::dict result;
            for (const Kernel& kernel : kernels()) result[kernel.name.data()] = PyKernel{&kernel};
            return result;
        },
        "Every kernel by name.");
}

}  // namespace ozone
