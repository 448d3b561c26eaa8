#include "kernels/elementwise.h"

#include "kernels/share.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {
namespace {

template <typename T, typename Function>
OZONE_INLINE void map(T* out, const T* x, const T* y, int64_t count, Function function) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(out + i, function(load(x + i), load(y + i)));
    const int64_t rest = count - i;
    if (rest) store_some(out + i, function(load_some(x + i, rest), load_some(y + i, rest)), rest);
}

}  // namespace

void run(const Elementwise& p, int rank, int size) {
    with_type(p.dtype, [&]<typename T>(T) {
        const Share share = share_of(p.rows * p.cols, rank, size, 64);
        T* out = static_cast<T*>(p.out) + share.begin;
        const T* x = static_cast<const T*>(p.x) + share.begin;
        const T* y = p.y ? static_cast<const T*>(p.y) + share.begin : x;
        const int64_t count = share.end - share.begin;
        const F32 factor = splat(static_cast<float>(p.factor));
        switch (static_cast<Operation>(p.operation)) {
            case Operation::add: return map(out, x, y, count, [](F32 a, F32 b) { return a + b; });
            case Operation::scale: return map(out, x, x, count, [&](F32 a, F32) { return a * factor; });
            case Operation::softcap:
                return map(out, x, x, count, [&](F32 a, F32) { return tanh(a / factor) * factor; });
        }
    });
}

}  // namespace ozone::OZONE_ISA
