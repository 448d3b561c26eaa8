// The one thread team. It is small and patient: it spins about 50 us for the next launch and then sleeps, so
// that an idle process uses no CPU and other pools on the same cores are not starved.
#pragma once

#include <cstddef>

#include "runtime/kernel.h"

namespace ozone {

// Bytes of scratch memory that each rank has to itself during a launch. Kernels cut their work to fit.
inline constexpr size_t kScratchBytes = size_t{4} << 20;

// The calling thread's scratch memory: page-aligned, contents arbitrary. Throws std::bad_alloc, but not in a launch
// through `run_on_team` or `launch`, which see to it before.
std::byte* scratch();

// Calls `function(params, rank, size)` on every thread of the team, of which the caller is rank 0, and returns when
// all have returned. One launch at a time: other callers wait. Throws std::system_error or std::bad_alloc where
// the team has to be made and cannot be.
void run_on_team(KernelFunction function, const void* params);

// How many threads the team has, the caller of a launch among them. At first as many as the process may use CPUs.
int num_threads();

// Replaces the team, after the launch that is under way. Worker r is pinned to the r-th CPU of the process's
// affinity where there is one for every thread; the caller, who also runs other pools, is left alone.
// Throws std::invalid_argument for less than one thread; std::system_error where the system has no more threads,
// and then the team is made again, with as many threads as before, by the next launch.
void set_num_threads(int size);

}  // namespace ozone
