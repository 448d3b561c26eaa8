// Element types of tensors, as kernels see them.
#pragma once

#include <cstdint>

namespace ozone {

// Codes of activation types, in integer fields named `dtype`. Python has the same table (ozone/native/dtypes.py).
enum class DType : int64_t { f32 = 0, bf16 = 1, f16 = 2 };

// For `cost`: called by the runtime alone, so that no instruction set's copy of it is emitted.
constexpr int64_t element_bytes(int64_t dtype) { return dtype == static_cast<int64_t>(DType::f32) ? 4 : 2; }

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};
struct e4m3 {  // 1 sign, 4 exponent and 3 mantissa bits, bias 7, no infinities: torch.float8_e4m3fn
    uint8_t bits;
};

}  // namespace ozone
