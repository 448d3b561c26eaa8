#include "runtime/build_info.h"

namespace ozone {

BuildInfo build_info() {
    BuildInfo info;
#if defined(__clang__)
    info.compiler = "clang " __clang_version__;
#elif defined(__GNUC__)
    info.compiler = "g++ " __VERSION__;
#else
    info.compiler = "unknown";
#endif
#if defined(__x86_64__)
    info.architecture = "x86_64";
#elif defined(__aarch64__)
    info.architecture = "aarch64";
#else
    info.architecture = "unknown";
#endif
    return info;
}

}  // namespace ozone
