// rcu.hpp -- an RCU domain as Python has it.
//
// pgtbl.RcuDomain() makes a domain of its own; machine.rcu shows the machine's.  Both are the class py_rcu
// over an rcu_place, which knows where the domain lives and what reader the calling thread has there.
//
// Guarantee.  Nothing that waits holds the GIL.  Python callbacks run under no lock, in a thread that has
// the GIL: the main thread between two bytecodes, or one that waits for a grace period by this object.  What
// they raise goes to sys.unraisablehook.
// Method.  The C++ callback, which runs in any thread, appends to a queue and asks for a pending call.
#pragma once
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "bindings/bind.hpp"
#include "sync/rcu.hpp"

namespace pgtbl::inline PGTBL_WORLD {

/// What waits to be done in Python: callbacks whose grace period is over, and stalls to warn of.
class rcu_inbox : public std::enable_shared_from_this<rcu_inbox> {
 public:
  void push(PyObject* callable);  // any thread, with or without the GIL; takes the reference
  void warn(std::string text);    // the same
  void drain();                   // with the GIL; does nothing while another thread drains
  void drain_all(u64 target);     // with the GIL, which it releases: until so many have run
  u64 pushed();
  bool draining_here();  // the calling thread is inside of a callback
  bool is_ours() const { return generation_ == fork_generation(); }

 private:
  void ask();
  bool next(PyObject*& callable, std::string& text);
  static int pending_call(void* keep);

  const u32 generation_ = fork_generation();  // a child inherits pending calls, and a lock that may be held
  std::mutex lock_;
  std::condition_variable done_changed_;
  std::deque<PyObject*> ready_;  // protected by lock_, as is all below
  std::deque<std::string> warnings_;
  u64 pushed_ = 0, done_ = 0;
  bool asked_ = false, draining_ = false;
  u32 drainer_ = 0;  // tid
};

/// Where a domain lives.  Its inbox and hook must outlive the domain.
class rcu_place {
 public:
  rcu_place();
  rcu_place(const rcu_place&) = delete;
  rcu_place& operator=(const rcu_place&) = delete;
  virtual ~rcu_place() = default;

  /// A call on the domain, from its begin to its end: closed_error where the domain is closed or a parent
  /// process's; between enter() and leave() it is not closed.
  virtual void enter() = 0;
  virtual void leave() = 0;
  /// Inside of a call.
  virtual rcu_domain& domain() = 0;
  virtual rcu_reader& reader() = 0;  // the calling thread's
  /// With the GIL.
  virtual void close() = 0;

  const std::shared_ptr<rcu_inbox>& inbox() const { return inbox_; }
  /// To be given to the domain: rcu_domain::set_stall_hook().
  const rcu_stall_hook* stall_hook() const { return &hook_; }

 private:
  std::shared_ptr<rcu_inbox> inbox_;
  rcu_stall_hook hook_;
};

/// The place of a domain that belongs to no machine.
std::shared_ptr<rcu_place> make_own_place(const rcu_config& config);

/// What domain.stats() answers.
py::dict rcu_stats_dict(const rcu_stats& s);

void bind_rcu_inbox();  // before the first inbox
void bind_rcu_torture(py::module_& m);

/// The Python object; bind_rcu() must have run.
py::object make_rcu_object(std::shared_ptr<rcu_place> place);

}  // namespace pgtbl::inline PGTBL_WORLD
