#include "kernels/pack.h"

#include <cstring>

#include "kernels/panel.h"
#include "kernels/share.h"

namespace ozone::OZONE_ISA {
namespace {

template <typename Step>
OZONE_INLINE void pack(const PackPanels& p, int rank, int size) {
    constexpr int64_t kSteps = 64 / sizeof(Step);  // a cache line of a row at a time
    const int64_t bytes = sizeof(Step), steps = (p.row_bytes + bytes - 1) / bytes;
    const auto* from = static_cast<const char*>(p.rows_from);
    const Share share = share_of(steps, rank, size, kSteps);
    for (int64_t first = 0; first < p.rows;) {
        const int64_t lane = (p.row + first) % kPanelRows, panel = (p.row + first) / kPanelRows;
        const int64_t left = p.rows - first, count = left < kPanelRows - lane ? left : kPanelRows - lane;
        auto* to = static_cast<Step*>(p.packed) + panel * steps * kPanelRows + lane;
        for (int64_t s = share.begin; s < share.end; s += kSteps) {
            const int64_t end = s + kSteps < share.end ? s + kSteps : share.end;
            for (int64_t i = 0; i < count; ++i) {
                const char* row = from + (first + i) * p.row_bytes;
                for (int64_t at = s; at < end; ++at) {
                    Step step = 0;
                    const int64_t rest = p.row_bytes - at * bytes;
                    std::memcpy(&step, row + at * bytes, rest < bytes ? rest : bytes);
                    to[at * kPanelRows + i] = step;
                }
            }
        }
        first += count;
    }
}

}  // namespace

void run(const PackPanels& p, int rank, int size) {
    if (p.step_bytes == 2) return pack<uint16_t>(p, rank, size);
    pack<uint32_t>(p, rank, size);
}

}  // namespace ozone::OZONE_ISA
