// waiting.hpp -- calls that may sleep for as long as another thread likes, as a fault does that waits for a userfaultfd.
//
// Guarantee.  Such a call ends with Ctrl-C (in the main thread: what the signal's handler raises), and with ClosedError
// when its machine or mm is being closed: nobody is left behind.
#pragma once
#include "bindings/objects.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Runs f() without the GIL, for the program of `m`; a wait of its asks every now and then whether to go on.
template <class F>
auto run_interruptibly(cpu& self, const py_mm& m, F&& f) {
  struct question {
    cpu& self;
    const py_mm& m;
    gil_released* nogil;
    bool raised = false;
    // The call that this one is inside of may be asked too: a signal's handler runs in the midst of it.
    bool (*const outer)(void*) = self.still_wanted;
    void* const outer_arg = self.wanted_by;

    static bool go_on(void* arg) {
      auto& q = *static_cast<question*>(arg);
      if (q.closing()) return false;
      if (is_main_thread()) q.nogil->come_back_for([&q] { q.raised = PyErr_CheckSignals() != 0; });
      return !q.raised;
    }
    bool closing() const {
      return m.where->entrance.state.load(std::memory_order_acquire) == gate::closed ||
             m.entrance.state.load(std::memory_order_acquire) == gate::closed;
    }
    ~question() {
      self.still_wanted = outer;
      self.wanted_by = outer_arg;
    }
  } q{self, m, nullptr};
  try {
    gil_released nogil;
    q.nogil = &nogil;
    self.still_wanted = &question::go_on;
    self.wanted_by = &q;
    return f();
  } catch (const interrupted& e) {
    if (q.raised) throw py::error_already_set();
    throw closed_error(std::string(e.what()) + ": it is being closed");
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
