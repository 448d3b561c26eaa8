// The one way to run a kernel.
#pragma once

#include <cstdint>

#include "runtime/kernel.h"

namespace ozone {

// Launches that move less than this are done by the caller alone: waking a sleeping thread costs more.
inline constexpr int64_t kAloneBelowBytes = 32 << 10;
// The same in a replay, whose threads are awake: to share costs no more than a barrier, which is there anyway.
inline constexpr int64_t kAloneInReplayBelowBytes = 8 << 10;

// Runs `kernel` over `params`, a struct of its fields, with the active instruction set: on the team, or on
// the calling thread where the work is small. Returns when it is done.
void launch(const Kernel& kernel, const void* params);

// The same on the calling thread alone, for work that is already done by several callers side by side.
void launch_alone(const Kernel& kernel, const void* params);

// What a launch runs: the kernel's variant for the active instruction set, in the way chosen for what it is given.
KernelFunction function_of(const Kernel& kernel, const void* params);

// The kernel of that name, or nullptr.
const Kernel* find_kernel(std::string_view name);

}  // namespace ozone
