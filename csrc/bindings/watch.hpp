// watch.hpp -- Ctrl-C during a long call without the GIL.
#pragma once
#include <optional>

#include "bindings/bind.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Looks for signals every now and then; what their handlers raise ends the round.
class signal_watch {
 public:
  bool operator()() {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() == 0) return false;
    raised_.emplace();
    return true;
  }
  void raise_unless_interrupt() {
    if (raised_ && !raised_->matches(PyExc_KeyboardInterrupt))
      throw py::error_already_set(std::move(*raised_));
    raised_.reset();
  }

 private:
  std::optional<py::error_already_set> raised_;
};

}  // namespace pgtbl::inline PGTBL_WORLD
