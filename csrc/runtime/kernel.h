// What a kernel is: an SPMD function over a struct of fields, with a stable identity.
//
// Each of `size` threads calls the function with its `rank` and does its share. A kernel never allocates,
// never waits for another rank, and knows nothing but its parameters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "runtime/isa.h"

namespace ozone {

// What a field holds, which is what a stored launch has to know about it. Every field takes 8 bytes.
enum class Kind : uint8_t {
    input,    // pointer that is read (may be null where the kernel says so)
    output,   // pointer that is written
    state,    // pointer that is read and written: KV cache, accumulators
    count,    // int64 that varies from step to step, read from the batch header at run time
    integer,  // int64 that is fixed when a launch is stored
    real,     // double, likewise
};

inline bool is_pointer(Kind kind) { return kind <= Kind::state; }

inline constexpr size_t kMaxFields = 48;  // of a kernel
inline constexpr size_t kMaxWays = 4;      // likewise

struct Field {
    std::string_view name;
    Kind kind;
};

using KernelFunction = void (*)(const void* params, int rank, int size) noexcept;
using KernelCost = int64_t (*)(const void* params);

// Weights that a rank reads once, in order. Where there are any, ranks divide the weights and nothing else, so that
// rank r of n does what ranks 2 r and 2 r + 1 of 2 n do, in any order. None: it reads no weights, or not like that.
struct Stretch {
    const std::byte* begin = nullptr;
    int64_t bytes = 0;
};
using KernelWeights = Stretch (*)(const void* params, int rank, int size) noexcept;

// What one instruction set has of a kernel: a function for each of its ways, and where its weights are, if it has any.
struct Variant {
    KernelFunction ways[kMaxWays];
    KernelWeights weights = nullptr;
};

struct Kernel {
    std::string_view name;          // unique
    uint32_t id;                    // a hash of the name, the same in every build
    uint32_t version;               // raised when the meaning of the fields or of the result changes
    std::span<const Field> fields;  // of the parameter struct, in order
    KernelCost cost;                // about how many bytes a launch moves: small ones stay on one thread
    // Names of the ways to do the same in another time, the default first; none where there is but one. Results are
    // equal to the bit. See runtime/ways.h.
    std::span<const std::string_view> ways;
    uint64_t shape_fields;  // a bit for each field that a choice of ways depends on
    size_t rows_field;      // the count that it depends on besides
    Variant variants[kIsas];
};

constexpr uint32_t kernel_id(std::string_view name) {  // FNV-1a
    uint32_t hash = 2166136261u;
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
    return hash;
}

// Every kernel of the library (kernels/registry.cpp).
std::span<const Kernel> kernels();

}  // namespace ozone
