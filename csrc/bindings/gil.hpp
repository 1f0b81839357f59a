// gil.hpp -- leaving the interpreter while a call works or waits, and coming back to it.
//
// Problem.  When Python ends, a daemon thread that asks for the GIL is ended by pthread_exit(), whose unwinding
// dies in C++ ("terminate called without an active exception").  py::gil_scoped_release does not help.
// Method.  As the interpreter begins to end (atexit), threads on their way back are let in one last time; whoever
// comes later stays out for ever, as Python 3.14 has it.
#pragma once
#include "base/wait_watch.hpp"
#include "bindings/bind.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Leaves the interpreter for a scope; the calling thread is in it.
class gil_released {
 public:
  gil_released() : state_(PyEval_SaveThread()) {}
  gil_released(const gil_released&) = delete;
  gil_released& operator=(const gil_released&) = delete;
  ~gil_released() { come_back(state_); }

  static void come_back(PyThreadState* state);

  /// Back in the interpreter for f() alone.
  template <class F>
  void come_back_for(F&& f) {
    come_back(state_);
    f();
    state_ = PyEval_SaveThread();
  }

 private:
  PyThreadState* state_;
};

/// The same where this thread may not be in it: objects go, and wait, in threads of either kind.
class maybe_released {
 public:
  maybe_released() {
    if (Py_IsInitialized() != 0 && PyGILState_Check() != 0) state_ = PyEval_SaveThread();
  }
  maybe_released(const maybe_released&) = delete;
  maybe_released& operator=(const maybe_released&) = delete;
  ~maybe_released() {
    if (state_ != nullptr) gil_released::come_back(state_);
  }

 private:
  PyThreadState* state_ = nullptr;
};

/// Whether signal handlers run in this thread.
bool is_main_thread();

/// Runs wait(wait_watch&) without the GIL.  While it waits, the main thread comes back now and then: meanwhile() is
/// called, and signal handlers run.  What one raises (Ctrl-C) ends the wait, and is thrown here.
template <class Wait, class Meanwhile>
void wait_interruptibly(Wait&& wait, Meanwhile&& meanwhile) {
  struct questions {
    gil_released nogil;
    Meanwhile& meanwhile;
    bool raised = false;

    static bool go_on(void* arg) {
      if (!is_main_thread()) return true;
      auto& q = *static_cast<questions*>(arg);
      q.nogil.come_back_for([&q] {
        q.raised = PyErr_CheckSignals() != 0;
        if (!q.raised) q.meanwhile();
      });
      return !q.raised;
    }
  };
  bool raised = false;
  {
    questions q{{}, meanwhile};
    wait_watch p{&questions::go_on, &q};
    wait(p);
    raised = q.raised;
  }
  if (raised) throw py::error_already_set();
}
template <class Wait>
void wait_interruptibly(Wait&& wait) {
  const auto nothing = [] {};
  wait_interruptibly(std::forward<Wait>(wait), nothing);
}

}  // namespace pgtbl::inline PGTBL_WORLD
