#include "kernels/norm.h"

#include <cstddef>

#include "kernels/rms.h"
#include "kernels/share.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

void run(const RmsNorm& p, int rank, int size) {
    with_type(p.dtype, [&]<typename T>(T) {
        const Share rows = share_of(p.tokens * p.heads, rank, size);
        for (int64_t row = rows.begin; row < rows.end; ++row) {
            const int64_t at = row / p.heads * p.x_stride + row % p.heads * p.head_stride;
            normalize(static_cast<T*>(p.out) + row * p.cols, static_cast<const T*>(p.x) + at, p.weight, p.cols,
                      p.eps);
        }
    });
}

void run(const FusedAddRmsNorm& p, int rank, int size) {
    with_type(p.dtype, [&]<typename T>(T) {
        const Share rows = share_of(p.rows, rank, size);
        for (int64_t row = rows.begin; row < rows.end; ++row) {
            const int64_t at = row * p.cols;
            T* total = static_cast<T*>(p.sum) + at;
            add(total, static_cast<const T*>(p.x) + at, static_cast<const T*>(p.residual) + at, p.cols);
            normalize(static_cast<T*>(p.out) + at, static_cast<const T*>(total), p.weight, p.cols, p.eps);
        }
    });
}

}  // namespace ozone::OZONE_ISA
