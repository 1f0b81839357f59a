// watch.hpp -- what the long calls share: whose rules they follow, and Ctrl-C while the GIL is free.
#pragma once
#include <memory>
#include <string>

#include "base/era.hpp"
#include "bindings/bind.hpp"
#include "bindings/gil.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// Looks for signals every now and then; what their handlers raise ends the round.
class signal_watch {
 public:
  bool operator()() {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() == 0) return false;
    raised_ = std::make_unique<py::error_already_set>();
    return true;
  }
  /// Goes on with what was raised.  keeps_results: not with KeyboardInterrupt, which the result tells.
  void raise(bool keeps_results) {
    if (raised_ && !(keeps_results && raised_->matches(PyExc_KeyboardInterrupt)))
      throw py::error_already_set(std::move(*raised_));
    raised_.reset();
  }

 private:
  std::unique_ptr<py::error_already_set> raised_;
};

/// run(config) without the GIL; a signal's handler that raises ends it early.
template <class Config, class Run>
auto run_watched(Config& config, Run&& run, bool keeps_results) {
  signal_watch watch;
  config.interrupted = [&watch] { return watch(); };
  auto result = [&] {
    const gil_released free;
    return run(config);
  }();
  watch.raise(keeps_results);
  return result;
}

/// The rules of an era with some switches overridden; value_error if there are none such, or they are not safe together.
template <class Switches>
era rules_of(const std::string& era_name, const Switches& switches) {
  era rules = era_named(era_name);
  for (const auto& [name, value] : switches) set_switch(rules, name, value);
  validate(rules);
  return rules;
}

}  // namespace pgtbl::inline PGTBL_WORLD
