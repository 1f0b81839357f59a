// gil.hpp -- leaving the interpreter while a call works or waits, and coming back to it.
//
// Problem.  When Python ends, a daemon thread that asks for the GIL is ended by pthread_exit(), whose unwinding
// dies in C++ ("terminate called without an active exception").  py::gil_scoped_release does not help.
// Method.  As the interpreter begins to end (atexit), threads on their way back are let in one last time; whoever
// comes later stays out for ever, as Python 3.14 has it.
#pragma once
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

}  // namespace pgtbl::inline PGTBL_WORLD
