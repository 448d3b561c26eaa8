#include "kernels/embedding.h"

#include <cstring>

#include "kernels/panel.h"
#include "kernels/share.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {
namespace {

// `row` points at the first step of a row in its panel.
template <typename T>
OZONE_INLINE void unpack_row(T* out, const T* row, int64_t cols) {
    constexpr int64_t kStep = step_columns<T>();
    const int64_t steps = cols / kStep;
    for (int64_t s = 0; s < steps; ++s) std::memcpy(out + s * kStep, row + s * kPanelRows * kStep, kStep * sizeof(T));
    for (int64_t c = steps * kStep; c < cols; ++c) out[c] = row[steps * kPanelRows * kStep + c % kStep];
}

template <typename T>
OZONE_INLINE void gather(const Embedding& p, int64_t id, T* out) {
    if (id < 0 || id >= p.rows) {
        for (int64_t c = 0; c < p.cols; ++c) out[c] = from_float<T>(__builtin_nanf(""));
        return;
    }
    constexpr int64_t kStep = step_columns<T>();
    const T* table = static_cast<const T*>(p.weight);
    const int64_t steps = (p.cols + kStep - 1) / kStep;
    if (p.packed)
        unpack_row(out, table + ((id / kPanelRows) * steps * kPanelRows + id % kPanelRows) * kStep, p.cols);
    else
        std::memcpy(out, table + id * p.cols, p.cols * sizeof(T));
    if (p.scale == 1.0) return;
    const F32 scale = splat(static_cast<float>(p.scale));
    int64_t c = 0;
    for (; c + kLanes <= p.cols; c += kLanes) store(out + c, load(out + c) * scale);
    store_some(out + c, load_some(out + c, p.cols - c) * scale, p.cols - c);
}

}  // namespace

void run(const Embedding& p, int rank, int size) {
    with_type(p.dtype, [&]<typename T>(T) {
        const Share share = share_of(p.tokens, rank, size);
        for (int64_t t = share.begin; t < share.end; ++t)
            gather(p, p.wide_ids ? static_cast<const int64_t*>(p.token_ids)[t]
                                 : static_cast<const int32_t*>(p.token_ids)[t],
                   static_cast<T*>(p.out) + t * p.cols);
    });
}

}  // namespace ozone::OZONE_ISA
