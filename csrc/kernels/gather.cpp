#include "kernels/gather.h"

#include "kernels/share.h"

namespace ozone::OZONE_ISA {
namespace {

template <typename Bits>
void gather(const GatherColumns& p, int rank, int size) {
    // One token's columns are shared too: a token is all there is where a request is alone.
    const Share share = share_of(p.rows * p.cols, rank, size, 64);
    Bits* out = static_cast<Bits*>(p.out);
    const Bits* x = static_cast<const Bits*>(p.x);
    int64_t row = share.begin / p.cols, col = share.begin % p.cols;
    for (int64_t at = share.begin; at < share.end; ++row, col = 0) {
        const Bits* from = x + row * p.row_stride;
        const int64_t left = share.end - at, end = p.cols - col < left ? p.cols : col + left;
        for (; col < end; ++col) out[at++] = from[p.order[col]];
    }
}

}  // namespace

void run(const GatherColumns& p, int rank, int size) {
    if (p.dtype == static_cast<int64_t>(DType::f32))
        gather<uint32_t>(p, rank, size);
    else
        gather<uint16_t>(p, rank, size);
}

}  // namespace ozone::OZONE_ISA
