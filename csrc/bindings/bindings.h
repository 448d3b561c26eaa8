#pragma once

#include <nanobind/nanobind.h>

#include <unistd.h>

namespace ozone {

void bind_runtime(nanobind::module_& m);  // instruction sets, threads, memory
void bind_kernels(nanobind::module_& m);  // kernels as Python callables
void bind_programs(nanobind::module_& m);  // recorded launches and programs

// Gives up the GIL while it lives. Python ends a daemon thread that asks for the GIL while the process exits, by
// unwinding its stack; C++ would abort the process where that meets a function that must not throw. Such a
// thread sleeps here instead until the process is gone, as it does in Python from 3.14 on.
class WithoutGil {
  public:
    WithoutGil() : state_(PyEval_SaveThread()) {}
    ~WithoutGil() {
#if defined(__GLIBCXX__)
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {  // which is no object: a reference to it would be null
            while (true) pause();
        }
#else
        PyEval_RestoreThread(state_);
#endif
    }
    WithoutGil(const WithoutGil&) = delete;
    WithoutGil& operator=(const WithoutGil&) = delete;

  private:
    PyThreadState* state_;
};

}  // namespace ozone
