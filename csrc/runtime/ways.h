// Which way of a kernel is taken. Ways of a kernel give the same result, bit for bit, in different times: by what
// they keep in which cache, how far ahead they ask for memory. Which one is faster depends on the machine, the shape
// and the number of rows, so the choice is a table beside the launches, looked up when they run: a stored program
// knows nothing of it.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/kernel.h"

namespace ozone {

// A way for rows up to and including `last`, from where the span before it ends.
struct WaySpan {
    int64_t last;
    int way;
};

// The ways of one shape: spans in order, of which the last has no end.
struct ShapeWays {
    uint64_t shape;
    std::vector<WaySpan> spans;
};

// What a launch has in common with those that the same choice is for: the kernel and its fixed integers but strides.
uint64_t shape_of(const Kernel& kernel, const void* params);

// The way that a launch of the calling thread takes: that of its `WithWay`, else of its table, else the first one.
int way_of(const Kernel& kernel, const void* params);

// Replaces the table of the calling thread: each model runs in a thread of its own. Throws std::invalid_argument for
// spans that are not in order or leave rows out, and for ways below zero.
void set_ways(std::vector<ShapeWays> shapes);
const std::vector<ShapeWays>& ways();

// Has the calling thread's launches take way `way`, of kernels that have so many, while it lives.
class WithWay {
  public:
    explicit WithWay(int way);
    ~WithWay();
    WithWay(const WithWay&) = delete;
    WithWay& operator=(const WithWay&) = delete;

  private:
    int before_;
};

}  // namespace ozone
