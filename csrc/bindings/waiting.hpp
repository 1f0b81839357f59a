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
    cpu_slot& slot = m.where->slot();
    bool raised = false, resting = false;
    const bool outer_killable = self.killable;
    // The call that this one is inside of may be asked too: a signal's handler runs in the midst of it.
    bool (*const outer)(void*) = self.still_wanted;
    void* const outer_arg = self.wanted_by;
    void (*const outer_resting)(void*, bool) = self.resting;

    static bool go_on(void* arg) {
      auto& q = *static_cast<question*>(arg);
      if (q.raised || q.closing()) return false;
      if (is_main_thread()) {
        const bool rested = q.resting;
        if (rested) rests(arg, false);  // a handler may do anything
        q.nogil->come_back_for([&q] { q.raised = PyErr_CheckSignals() != 0; });
        if (rested) rests(arg, true);
      }
      return !q.raised;
    }
    static void rests(void* arg, bool now) {
      auto& q = *static_cast<question*>(arg);
      q.resting = now;
      q.m.where->rest(q.slot, now);
    }
    bool closing() const {
      return m.where->entrance.state.load(std::memory_order_acquire) == gate::closed ||
             m.entrance.state.load(std::memory_order_acquire) == gate::closed;
    }
    ~question() {
      self.still_wanted = outer;
      self.wanted_by = outer_arg;
      self.resting = outer_resting;
      self.killable = outer_killable;
    }
  } q{self, m, nullptr};
  try {
    gil_released nogil;
    q.nogil = &nogil;
    self.still_wanted = &question::go_on;
    self.wanted_by = &q;
    self.resting = &question::rests;
    self.killable = true;
    return f();
  } catch (const interrupted& e) {
    if (q.raised) throw py::error_already_set();
    throw closed_error(std::string(e.what()) + ": it is being closed");
  }
}

/// A thread that is inside of a mm's mmap_lock by Python code would wait for itself: DeadlockError.
void forbid_own_lock(const call& c, const py_mm& m, const char* name);

/// A load or store of the program, or what looks a page up as they do: sleeps in a page fault only.
template <class F>
auto run_access(py_mm& m, const char* name, F&& f) {
  const call c(*m.where, m.entrance, name, m.closed_text());
  forbid_own_lock(c, m, name);
  return run_interruptibly(c.self(), m, [&] {
    if constexpr (std::is_void_v<std::invoke_result_t<F&, cpu&>>) {
      f(c.self());
      m.where->raise_breaches();
    } else {
      auto result = f(c.self());
      m.where->raise_breaches();
      return result;
    }
  });
}

/// A system call, which may sleep.
template <class F>
auto run_mm(py_mm& m, const char* name, F&& f) {
  return run_access(m, name, [&](cpu& self) {
    forbid_section(self, name);
    return f(self);
  });
}

}  // namespace pgtbl::inline PGTBL_WORLD
