// The table of kernels: each parameter struct of kernels.def with its variants, one for each instruction set.
#include "runtime/kernel.h"

#include <iterator>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/gather.h"
#include "kernels/linear_float.h"
#include "kernels/linear_fp8.h"
#include "kernels/linear_gguf.h"
#include "kernels/linear_int4.h"
#include "kernels/linear_int8.h"
#include "kernels/logprobs.h"
#include "kernels/machine.h"
#include "kernels/norm.h"
#include "kernels/pack.h"
#include "kernels/quantize.h"
#include "kernels/rotary.h"
#include "kernels/sampling.h"

// The variants are compiled from the same sources in a namespace each; see CMakeLists.txt.
#define DECLARE(isa, params)                                    \
    namespace ozone::isa {                                      \
    void run(const params& p, int rank, int size);              \
    }
#define KERNEL(params) DECLARE(portable, params)
#include "kernels/kernels.def"
#undef KERNEL
#if defined(__x86_64__)
#define KERNEL(params) DECLARE(avx2, params) DECLARE(avx512, params)
#include "kernels/kernels.def"
#undef KERNEL
#if defined(OZONE_HAVE_AMX)
#define KERNEL(params) DECLARE(amx, params)
#include "kernels/kernels.def"
#undef KERNEL
#endif
#endif

namespace ozone {
namespace {

template <typename Params, void (*variant)(const Params&, int, int)>
void erased(const void* params, int rank, int size) noexcept {
    variant(*static_cast<const Params*>(params), rank, size);
}

template <typename Params>
constexpr Kernel describe(KernelFunction portable, KernelFunction avx2, KernelFunction avx512, KernelFunction amx) {
    static_assert(sizeof(Params) == 8 * std::size(Params::fields), "a field is missing, or is not 8 bytes");
    static_assert(std::size(Params::fields) <= kMaxFields);
    return {Params::name,
            kernel_id(Params::name),
            Params::version,
            Params::fields,
            [](const void* params) { return static_cast<const Params*>(params)->cost(); },
            {portable, avx2, avx512, amx}};
}

#define VARIANT(isa, params) erased<params, isa::run>
#if defined(__x86_64__) && defined(OZONE_HAVE_AMX)
#define KERNEL(params)                                                                              \
    describe<params>(VARIANT(portable, params), VARIANT(avx2, params), VARIANT(avx512, params), \
                     VARIANT(amx, params)),
#elif defined(__x86_64__)
#define KERNEL(params) \
    describe<params>(VARIANT(portable, params), VARIANT(avx2, params), VARIANT(avx512, params), nullptr),
#else
#define KERNEL(params) describe<params>(VARIANT(portable, params), nullptr, nullptr, nullptr),
#endif

constexpr Kernel kKernels[] = {
#include "kernels/kernels.def"
};

constexpr bool ids_differ() {
    for (size_t i = 0; i < std::size(kKernels); ++i)
        for (size_t j = 0; j < i; ++j)
            if (kKernels[i].id == kKernels[j].id) return false;
    return true;
}
static_assert(ids_differ(), "two kernels have the same id: rename one");

}  // namespace

std::span<const Kernel> kernels() { return kKernels; }

}  // namespace ozone
