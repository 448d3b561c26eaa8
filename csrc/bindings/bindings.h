#pragma once

#include <nanobind/nanobind.h>

namespace ozone {

void bind_runtime(nanobind::module_& m);  // instruction sets, threads, memory
void bind_kernels(nanobind::module_& m);  // kernels as Python callables

}  // namespace ozone
