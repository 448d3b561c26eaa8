// The table of kernels: each parameter struct of kernels.def with its variants, one for each instruction set.
#include "runtime/kernel.h"

#include <iterator>
#include <utility>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/attention_merge.h"
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
    void run(const params& p, int rank, int size, int way);     \
    Stretch weights_of(const params& p, int rank, int size);    \
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

template <typename Params>
constexpr bool kHasWays = requires { Params::ways; };

template <typename Params>
concept HasWeights = Params::has_weights;

template <typename Params, Stretch (*weights)(const Params&, int, int)>
constexpr KernelWeights weights_function() {
    if constexpr (!HasWeights<Params>) return nullptr;
    else
        return [](const void* params, int rank, int size) noexcept {
            return weights(*static_cast<const Params*>(params), rank, size);
        };
}

template <typename Params, void (*run)(const Params&, int, int), Stretch (*weights)(const Params&, int, int)>
    requires(!kHasWays<Params>)
constexpr Variant variant() {
    return {{[](const void* params, int rank, int size) noexcept {
                run(*static_cast<const Params*>(params), rank, size);
            }},
            weights_function<Params, weights>()};
}

template <typename Params, void (*run)(const Params&, int, int, int), Stretch (*weights)(const Params&, int, int)>
    requires kHasWays<Params>
constexpr Variant variant() {
    static_assert(std::size(Params::ways) <= kMaxWays);
    const auto all = []<size_t... way>(std::index_sequence<way...>) {
        return Variant{{[](const void* params, int rank, int size) noexcept {
                           run(*static_cast<const Params*>(params), rank, size, static_cast<int>(way));
                       }...},
                       weights_function<Params, weights>()};
    };
    return all(std::make_index_sequence<std::size(Params::ways)>());
}

template <typename Params>
constexpr std::span<const std::string_view> names_of_ways() {
    if constexpr (kHasWays<Params>) return Params::ways;
    else return {};
}

template <typename Params>
constexpr uint64_t shape_fields() {
    uint64_t fields = 0;
    for (size_t i = 0; i < std::size(Params::fields); ++i)
        if (Params::fields[i].kind == Kind::integer && !Params::fields[i].name.ends_with("stride"))
            fields |= uint64_t{1} << i;
    return fields;
}

template <typename Params>
constexpr size_t rows_field() {
    size_t i = 0;
    while (i < std::size(Params::fields) && Params::fields[i].kind != Kind::count) ++i;
    return i;
}

template <typename Params>
constexpr Kernel describe(Variant portable, Variant avx2, Variant avx512, Variant amx) {
    static_assert(sizeof(Params) == 8 * std::size(Params::fields), "a field is missing, or is not 8 bytes");
    static_assert(std::size(Params::fields) <= kMaxFields);
    return {Params::name,
            kernel_id(Params::name),
            Params::version,
            Params::fields,
            [](const void* params) { return static_cast<const Params*>(params)->cost(); },
            names_of_ways<Params>(),
            shape_fields<Params>(),
            rows_field<Params>(),
            {portable, avx2, avx512, amx}};
}

#define VARIANT(isa, params) variant<params, isa::run, isa::weights_of>()
#if defined(__x86_64__) && defined(OZONE_HAVE_AMX)
#define KERNEL(params)                                                                              \
    describe<params>(VARIANT(portable, params), VARIANT(avx2, params), VARIANT(avx512, params), \
                     VARIANT(amx, params)),
#elif defined(__x86_64__)
#define KERNEL(params) \
    describe<params>(VARIANT(portable, params), VARIANT(avx2, params), VARIANT(avx512, params), Variant{}),
#else
#define KERNEL(params) describe<params>(VARIANT(portable, params), Variant{}, Variant{}, Variant{}),
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
