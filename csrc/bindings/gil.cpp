#include "bindings/gil.hpp"

#include <atomic>

namespace pgtbl::inline PGTBL_WORLD {

namespace {
std::atomic<u32> returning{0};  // threads between the look at ended_by and the interpreter
std::atomic<u32> ended_by{0};   // tid of the thread that ends the interpreter
}  // namespace

void gil_released::come_back(PyThreadState* state) {
  // Our place before the look, against the store before the look in bind_gil().
  returning.fetch_add(1);
  if (const u32 tid = ended_by.load(); tid != 0 && tid != thread_id()) [[unlikely]] {
    returning.fetch_sub(1);
    for (;;) sleep_ns(1'000'000'000);
  }
  PyEval_RestoreThread(state);
  returning.fetch_sub(1);
}

void bind_gil(py::module_&) {
  py::module_::import("atexit").attr("register")(py::cpp_function([] {
    ended_by.store(thread_id());
    PyThreadState* const state = PyEval_SaveThread();
    for (unsigned tries = 0; returning.load() != 0 && tries < 10'000; ++tries) sleep_ns(100'000);
    PyEval_RestoreThread(state);
  }));
}

}  // namespace pgtbl::inline PGTBL_WORLD
