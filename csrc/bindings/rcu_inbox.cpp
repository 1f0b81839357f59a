#include <atomic>

#include "bindings/gil.hpp"
#include "bindings/rcu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

std::atomic<bool> finalizing{false};  // no more pending calls: the interpreter is going

py::object& stall_warning() {
  static py::object* type = new py::object;  // lives as long as the process
  return *type;
}

}  // namespace

void rcu_inbox::push(PyObject* callable) {
  {
    const std::lock_guard held(lock_);
    ready_.push_back(callable);
    ++pushed_;
  }
  ask();
}

void rcu_inbox::warn(std::string text) {
  {
    const std::lock_guard held(lock_);
    warnings_.push_back(std::move(text));
  }
  ask();
}

/// Has the main thread drain, between two bytecodes.  Python has room for 32 such calls: where it has none
/// the next push asks again, and every call that waits drains too.
void rcu_inbox::ask() {
  if (finalizing.load()) return;
  {
    const std::lock_guard held(lock_);
    if (asked_) return;
    asked_ = true;
  }
  auto* keep = new std::shared_ptr<rcu_inbox>(shared_from_this());
  if (Py_AddPendingCall(pending_call, keep) == 0) return;
  delete keep;
  const std::lock_guard held(lock_);
  asked_ = false;
}

int rcu_inbox::pending_call(void* keep) {
  const std::unique_ptr<std::shared_ptr<rcu_inbox>> inbox(static_cast<std::shared_ptr<rcu_inbox>*>(keep));
  if (!(*inbox)->is_ours()) return 0;  // the parent runs its callbacks
  {
    const std::lock_guard held((*inbox)->lock_);
    (*inbox)->asked_ = false;
  }
  (*inbox)->drain();
  return 0;
}

/// False: there is nothing left, and this thread drains no more.
bool rcu_inbox::next(PyObject*& callable, std::string& text) {
  const std::lock_guard held(lock_);
  callable = nullptr;
  if (!warnings_.empty()) {
    text = std::move(warnings_.front());
    warnings_.pop_front();
    return true;
  }
  if (ready_.empty()) {
    draining_ = false;
    drainer_ = 0;
    done_changed_.notify_all();
    return false;
  }
  callable = ready_.front();
  ready_.pop_front();
  return true;
}

/// What a callback raised has nobody to go to.  But a Ctrl-C that came in its midst is the main program's: it comes
/// again between two bytecodes of that.
static void report(PyObject* callable) {
  if (is_main_thread() && PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) != 0) {
    PyErr_Clear();
    PyErr_SetInterrupt();
    return;
  }
  PyErr_WriteUnraisable(callable);
}

void rcu_inbox::drain() {
  {
    const std::lock_guard held(lock_);
    if (draining_ || (ready_.empty() && warnings_.empty())) return;
    draining_ = true;
    drainer_ = thread_id();
  }
  const py::error_scope keep_error;  // a pending call may come while an exception is on its way
  PyObject* callable = nullptr;
  std::string text;
  while (next(callable, text)) {
    if (callable == nullptr) {
      if (PyErr_WarnEx(stall_warning().ptr(), text.c_str(), 1) != 0) report(nullptr);
      continue;
    }
    PyObject* result = PyObject_CallNoArgs(callable);
    if (result == nullptr) report(callable);
    Py_XDECREF(result);
    Py_DECREF(callable);
    const std::lock_guard held(lock_);
    ++done_;
    done_changed_.notify_all();
  }
}

void rcu_inbox::drain_all(u64 target) {
  if (draining_here()) return;  // the rest follows when this callback returns
  for (;;) {
    drain();
    {
      const gil_released nogil;
      std::unique_lock held(lock_);
      if (done_ >= target) return;
      // Another thread drains; should it lose its turn before it is done, it is ours again.
      done_changed_.wait_for(held, std::chrono::nanoseconds(wait_watch::ask_every_ns),
                             [&] { return done_ >= target || !draining_; });
      if (done_ >= target) return;
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

u64 rcu_inbox::pushed() {
  const std::lock_guard held(lock_);
  return pushed_;
}

bool rcu_inbox::draining_here() {
  const std::lock_guard held(lock_);
  return draining_ && drainer_ == thread_id();
}

rcu_place::rcu_place() : inbox_(std::make_shared<rcu_inbox>()) {
  hook_.arg = inbox_.get();
  hook_.func = [](void* arg, const rcu_stall& s) {
    char text[320];
    std::snprintf(text, sizeof text,
                  "RCU grace period stalled for %.3f s by thread %u (%s), nested %u deep, in a section that "
                  "began %llu grace "
                  "period(s) ago; pending: %llu callbacks, %llu bytes",
                  static_cast<double>(s.waited_ns) * 1e-9, s.tid, s.name, s.nesting,
                  static_cast<unsigned long long>(s.epoch_age), static_cast<unsigned long long>(s.objects),
                  static_cast<unsigned long long>(s.bytes));
    static_cast<rcu_inbox*>(arg)->warn(text);
  };
}

void bind_rcu_inbox() {
  const auto errors = py::module_::import("pgtbl.errors");
  stall_warning() =
      py::getattr(errors, "RcuStallWarning", py::reinterpret_borrow<py::object>(PyExc_RuntimeWarning));
  py::module_::import("atexit").attr("register")(py::cpp_function([] { finalizing.store(true); }));
}

}  // namespace pgtbl::inline PGTBL_WORLD
