// How this library was built, for `ozone --version` and bug reports.
#pragma once

#include <string>

namespace ozone {

struct BuildInfo {
    std::string compiler;      // name and version
    std::string architecture;  // target of the baseline, e.g. "x86_64"
};

BuildInfo build_info();

}  // namespace ozone
