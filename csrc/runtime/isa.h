// Instruction sets: every kernel is compiled once for each, and one is chosen when the library is loaded.
#pragma once

#include <string_view>

namespace ozone {

// In ascending order: a CPU that has one has those before it.
enum class Isa : int {
    portable,  // what the compiler's default target has; the only one on other architectures than x86-64
    avx2,      // AVX2, FMA, F16C
    avx512,    // AVX-512 F, BW, DQ, VL, VNNI, VBMI and BF16
    amx,       // the above with AMX tiles of bf16 and int8
};
inline constexpr int kIsas = 4;

std::string_view isa_name(Isa isa);

// The highest instruction set that this CPU, its operating system and this build have.
Isa best_isa();

// What kernels run with: the best one, unless `set_isa` chose another.
Isa active_isa();

// Returns false, and changes nothing, for one that this machine or build does not have.
bool set_isa(Isa isa);

}  // namespace ozone
