// Kernels as Python callables: one positional argument for each field, addresses and counts as integers.
#include <nanobind/nanobind.h>

#include <cstring>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "runtime/kernel.h"
#include "runtime/launch.h"

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
    const nb::gil_scoped_release release;
    run(*self.kernel, &slots);
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
        .def("alone", call<launch_alone>, "Run it on the calling thread.");
    nb::class_<Launches>(m, "Launches", "Launches of one thread, recorded in order.")
        .def(nb::init<>())
        .def("record", [](Launches& self) { recording = &self; },
             "Add the launches that this thread makes on the team from now on; they are made as well.")
        .def_static("stop", [] { recording = nullptr; }, "End the recording of this thread.")
        .def("run", &Launches::run, nb::call_guard<nb::gil_scoped_release>(), "Make all of them again.")
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
