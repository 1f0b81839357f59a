#include "bindings/gil.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

namespace pgtbl::inline PGTBL_WORLD {

namespace {
std::atomic<u32> returning{0};  // threads between the look at ended_by and the interpreter
std::atomic<u32> ended_by{0};   // tid of the thread that ends the interpreter

// The system's own: in the model world a thread is an actor of an exploration.
u32 real_tid() { return static_cast<u32>(syscall(SYS_gettid)); }
}  // namespace

void gil_released::come_back(PyThreadState* state) {
  // Our place before the look, against the store before the look in bind_gil().
  returning.fetch_add(1);
  if (const u32 tid = ended_by.load(); tid != 0 && tid != real_tid()) [[unlikely]] {
    returning.fetch_sub(1);
    for (;;) pause();
  }
  PyEval_RestoreThread(state);
  returning.fetch_sub(1);
}

bool is_main_thread() { return real_tid() == static_cast<u32>(getpid()); }

void bind_gil(py::module_&) {
  py::module_::import("atexit").attr("register")(py::cpp_function([] {
    ended_by.store(real_tid());
    PyThreadState* const state = PyEval_SaveThread();
    for (unsigned tries = 0; returning.load() != 0 && tries < 10'000; ++tries) usleep(100);
    PyEval_RestoreThread(state);
  }));
}

}  // namespace pgtbl::inline PGTBL_WORLD
