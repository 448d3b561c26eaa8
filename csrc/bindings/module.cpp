// Python face of the native library. No torch header: tensors arrive as addresses.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "bindings/bindings.h"
#include "runtime/build_info.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);  // ops hold kernels until the interpreter ends
    m.doc() = "Ozone's native library";
    m.def(
        "build_info",
        [] {
            const ozone::BuildInfo info = ozone::build_info();
            nb::dict result;
            result["compiler"] = info.compiler;
            result["architecture"] = info.architecture;
            return result;
        },
        "Compiler and target architecture of this build.");
    ozone::bind_runtime(m);
    ozone::bind_kernels(m);
    ozone::bind_programs(m);
}
