#include "kernels/linear_int8.h"

#include "kernels/dot8.h"
#include "kernels/panel.h"
#include "kernels/share.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {
namespace {

constexpr int kStep = 4;  // columns

}  // namespace

void run(const LinearInt8& p, int rank, int size) {
    const int64_t steps = (p.cols + kStep - 1) / kStep, panels = (p.rows + kPanelRows - 1) / kPanelRows;
    const Output to{p.out, p.bias, p.residual, p.rows, p.dtype};
    const Share share = share_of(panels, rank, size);
    for (int64_t panel = share.begin; panel < share.end; ++panel) {
        const int64_t row = panel * kPanelRows;
        float scales[kPanelRows] = {};
        for (int64_t i = 0; i < kPanelRows && row + i < p.rows; ++i) scales[i] = p.weight_scale[row + i];
        for (int64_t t = 0; t < p.tokens; ++t) {
            const int8_t* x = p.x + t * p.cols;
            const uint8_t* w = p.weight + panel * steps * kPanelRows * kStep;
            int32_t total = 0;
            for (int64_t i = 0; i < p.cols; ++i) total += x[i];
            I32 sums[kPanelVectors];
            for (I32& s : sums) s = splat_int(-128 * total);
            for (int64_t step = 0; step < steps; ++step, w += kPanelRows * kStep) {
                int8_t bytes[kStep] = {};
                for (int64_t i = 0; i < kStep && step * kStep + i < p.cols; ++i) bytes[i] = x[step * kStep + i];
                const Activations broadcasted = broadcast(bytes);
                for (int v = 0; v < kPanelVectors; ++v)
                    sums[v] = dot(sums[v], load_ints(w + v * kLanes * kStep), broadcasted);
            }
            F32 scaled[kPanelVectors];
            for (int v = 0; v < kPanelVectors; ++v)
                scaled[v] = to_floats(sums[v]) * load(scales + v * kLanes) * splat(p.x_scale[t * p.scale_stride]);
            finish(to, t, row, scaled);
        }
    }
}

void run(const PackInt8& p, int rank, int size) {
    const int64_t steps = (p.cols + kStep - 1) / kStep;
    const Share share = share_of(p.rows, rank, size);
    for (int64_t i = share.begin; i < share.end; ++i) {
        const int64_t row = p.row + i;
        uint8_t* to = p.packed + ((row / kPanelRows) * steps * kPanelRows + row % kPanelRows) * kStep;
        const int8_t* from = p.weight + i * p.stride;
        for (int64_t step = 0; step < steps; ++step, to += kPanelRows * kStep)
            for (int64_t j = 0; j < kStep && step * kStep + j < p.cols; ++j)
                to[j] = static_cast<uint8_t>(from[step * kStep + j] + 128);
    }
}

}  // namespace ozone::OZONE_ISA
