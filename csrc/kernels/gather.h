// Columns in another order, as weights quantized in the order of their activations want them.
#pragma once

#include "kernels/types.h"
#include "runtime/kernel.h"

namespace ozone {

// out[row][i] = x[row][order[i]]
struct GatherColumns {
    static constexpr std::string_view name = "gather_columns";
    static constexpr uint32_t version = 1;
    static constexpr Field fields[] = {
        {"out", Kind::output},   {"x", Kind::input},             {"order", Kind::input},   {"rows", Kind::count},
        {"cols", Kind::integer}, {"row_stride", Kind::integer}, {"dtype", Kind::integer},
    };
    int64_t cost() const { return 2 * rows * cols * element_bytes(dtype); }

    void* out;             // (rows, cols), dense
    const void* x;         // (rows, cols), columns side by side
    const int32_t* order;  // (cols), columns of x
    int64_t rows, cols, row_stride, dtype;
};

}  // namespace ozone
