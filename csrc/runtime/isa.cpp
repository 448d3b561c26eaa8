#include "runtime/isa.h"

#include <atomic>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ozone {
namespace {

#if defined(__x86_64__) && defined(OZONE_HAVE_AMX) && !defined(OZONE_EMULATE_AMX) && defined(__linux__)
// Linux lets a process use tile registers only after it has asked (arch_prctl, ARCH_REQ_XCOMP_PERM).
bool may_use_tiles() {
    constexpr long kRequestPermission = 0x1023;
    constexpr long kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

Isa detect() {
    Isa found = Isa::portable;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return found;
    found = Isa::avx2;
    if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
          __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
          __builtin_cpu_supports("avx512bf16")))
        return found;
    found = Isa::avx512;
#if defined(OZONE_EMULATE_AMX)
    found = Isa::amx;
#elif defined(OZONE_HAVE_AMX) && defined(__linux__)
    unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
    __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    const bool bf16 = edx & (1u << 22), tile = edx & (1u << 24), int8 = edx & (1u << 25);
    if (bf16 && tile && int8 && may_use_tiles()) found = Isa::amx;
#endif
#endif
    return found;
}

std::atomic<Isa>& active() {
    static std::atomic<Isa> isa{best_isa()};
    return isa;
}

}  // namespace

std::string_view isa_name(Isa isa) {
    constexpr std::string_view names[kIsas] = {"portable", "avx2", "avx512", "amx"};
    return names[static_cast<int>(isa)];
}

Isa best_isa() {
    static const Isa best = detect();
    return best;
}

Isa active_isa() { return active().load(std::memory_order_relaxed); }

bool set_isa(Isa isa) {
    if (isa > best_isa()) return false;
    active().store(isa, std::memory_order_relaxed);
    return true;
}

}  // namespace ozone
