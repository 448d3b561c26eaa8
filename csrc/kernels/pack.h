// Packing of weights into panels (panel.h).
#pragma once

#include "runtime/kernel.h"

namespace ozone {

// Puts rows of a matrix into panels, from row `row` of them on. Elements are moved, not changed: a step of a row
// is `step_bytes` of it, 2 or 4.
struct PackPanels {
    static constexpr std::string_view name = "pack_panels";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"packed", Kind::state},      {"rows_from", Kind::input},  {"row", Kind::integer},
        {"rows", Kind::integer},      {"row_bytes", Kind::integer}, {"step_bytes", Kind::integer},
    };
    int64_t cost() const { return 2 * rows * row_bytes; }

    void* packed;           // (panels, steps, 48) steps of `step_bytes`; what the rows do not fill is left as it is
    const void* rows_from;  // (rows, row_bytes) bytes, dense
    int64_t row, rows, row_bytes, step_bytes;
};

}  // namespace ozone
