#include "runtime/launch.h"

#include "runtime/team.h"
#include "runtime/ways.h"

namespace ozone {

KernelFunction function_of(const Kernel& kernel, const void* params) {
    return kernel.variants[static_cast<int>(active_isa())].ways[way_of(kernel, params)];
}

void launch(const Kernel& kernel, const void* params) {
    if (kernel.cost(params) < kAloneBelowBytes) return launch_alone(kernel, params);
    run_on_team(function_of(kernel, params), params);
}

void launch_alone(const Kernel& kernel, const void* params) {
    scratch();  // kernels must not throw
    function_of(kernel, params)(params, 0, 1);
}

const Kernel* find_kernel(std::string_view name) {
    for (const Kernel& kernel : kernels())
        if (kernel.name == name) return &kernel;
    return nullptr;
}

}  // namespace ozone
