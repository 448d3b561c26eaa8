#include "kernels/activation.h"

#include "kernels/gate.h"
#include "kernels/share.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

void run(const ActivationAndMul& p, int rank, int size) {
    with_type(p.dtype, [&]<typename T>(T) {
        // Ranges of elements, not rows: one wide row is worth dividing.
        const Share share = share_of(p.rows * p.cols, rank, size, 64);
        for (int64_t at = share.begin; at < share.end;) {
            const int64_t row = at / p.cols, row_end = (row + 1) * p.cols;
            const int64_t end = row_end < share.end ? row_end : share.end;
            const T* x = static_cast<const T*>(p.x) + at + row * p.cols;
            gate(static_cast<T*>(p.out) + at, x, x + p.cols, end - at, p.activation);
            at = end;
        }
    });
}

}  // namespace ozone::OZONE_ISA
