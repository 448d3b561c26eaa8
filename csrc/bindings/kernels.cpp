// Kernels as Python callables: one positional argument for each field, addresses and counts as integers.
#include <nanobind/nanobind.h>

#include <cstring>
#include <string>

#include "bindings/bindings.h"
#include "bindings/launches.h"
#include "runtime/kernel.h"
#include "runtime/launch.h"

namespace nb = nanobind;

namespace ozone {
namespace {

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
            if (number == -1.0 && PyErr_Occurred()) throw nb::python_error();
            std::memcpy(&slots.values[i], &number, 8);
        } else {
            const long long number = PyLong_AsLongLong(value);
            if (number == -1 && PyErr_Occurred()) throw nb::python_error();
            std::memcpy(&slots.values[i], &number, 8);
        }
    }
}

template <void (*run)(const Kernel&, const void*)>
void run_filled(const Kernel& kernel, const Slots& slots) {
    if (kernel.cost(&slots) < kKeepGilBelowBytes) return run(kernel, &slots);
    const WithoutGil release;
    run(kernel, &slots);
}

void call(const PyKernel& self, const nb::args& args) {
    Slots slots;
    fill(*self.kernel, args, slots);
    if (recording) {
        recording->add(*self.kernel, slots.values);
        if (recording->dry) return;  // there may be nothing at its addresses
    }
    run_filled<launch>(*self.kernel, slots);
}

void call_alone(const PyKernel& self, const nb::args& args) {
    Slots slots;
    fill(*self.kernel, args, slots);
    run_filled<launch_alone>(*self.kernel, slots);
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
        .def_prop_ro(
            "ways",
            [](const PyKernel& self) {
                nb::list result;
                for (const std::string_view way : self.kernel->ways) result.append(nb::str(way.data()));
                return nb::tuple(result);
            },
            "Names of the ways to do the same in another time, the default first; none where there is but one.")
        .def("__call__", call, "Launch it on the thread team.")
        .def("alone", call_alone, "Run it on the calling thread.");
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
