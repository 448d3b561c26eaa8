#include "kernels/quantize.h"

#include "kernels/gate.h"
#include "kernels/quantize_row.h"
#include "kernels/rms.h"
#include "kernels/share.h"
#include "kernels/simd.h"
#include "runtime/team.h"

namespace ozone::OZONE_ISA {
namespace {

// Has `make_row(row, place)` write each row of `cols` numbers to a place and quantizes it from there.
template <typename T, typename MakeRow>
OZONE_INLINE void quantize_rows(const Quantized& to, int64_t rows, int64_t cols, int rank, int size,
                                MakeRow make_row) {
    const bool plain = static_cast<Target>(to.target) == Target::plain;
    const Share share = share_of(rows, rank, size);
    T* place = reinterpret_cast<T*>(scratch() + kPlaceOffset);
    for (int64_t row = share.begin; row < share.end; ++row) {
        if (plain) place = static_cast<T*>(to.out) + row * to.out_cols;
        make_row(row, place);
        for (int64_t i = cols; i < to.out_cols; ++i) place[i] = T{};
        if (!plain) finish_row(to, row, place);
    }
}

}  // namespace

void run(const Quantize& p, int rank, int size) {
    with_type(p.dtype, [&]<typename T>(T) {
        const T* x = static_cast<const T*>(p.x);
        if (static_cast<Target>(p.to.target) == Target::plain || p.to.out_cols != p.cols)
            return quantize_rows<T>(p.to, p.rows, p.cols, rank, size, [&](int64_t row, T* place) {
                std::memcpy(place, x + row * p.x_stride, p.cols * sizeof(T));
            });
        const Share share = share_of(p.rows, rank, size);
        for (int64_t row = share.begin; row < share.end; ++row) finish_row(p.to, row, x + row * p.x_stride);
    });
}

void run(const RmsNormQuantize& p, int rank, int size) {
    with_type(p.dtype, [&]<typename T>(T) {
        quantize_rows<T>(p.to, p.rows, p.cols, rank, size, [&](int64_t row, T* place) {
            normalize(place, static_cast<const T*>(p.x) + row * p.x_stride, p.weight, p.cols, p.eps);
        });
    });
}

void run(const FusedAddRmsNormQuantize& p, int rank, int size) {
    with_type(p.dtype, [&]<typename T>(T) {
        quantize_rows<T>(p.to, p.rows, p.cols, rank, size, [&](int64_t row, T* place) {
            const int64_t at = row * p.cols;
            T* total = static_cast<T*>(p.sum) + at;
            add(total, static_cast<const T*>(p.x) + at, static_cast<const T*>(p.residual) + at, p.cols);
            normalize(place, static_cast<const T*>(total), p.weight, p.cols, p.eps);
        });
    });
}

void run(const ActivationAndMulQuantize& p, int rank, int size) {
    with_type(p.dtype, [&]<typename T>(T) {
        quantize_rows<T>(p.to, p.rows, p.cols, rank, size, [&](int64_t row, T* place) {
            const T* x = static_cast<const T*>(p.x) + row * 2 * p.cols;
            gate(place, x, x + p.cols, p.cols, p.activation);
        });
    });
}

}  // namespace ozone::OZONE_ISA
