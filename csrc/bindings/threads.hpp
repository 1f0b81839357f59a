// threads.hpp -- a machine as Python has it: whose thread runs on which CPU, who is inside of a call, and
// closing it under their feet.
//
// Guarantee.  A thread that calls gets a CPU of its own, and keeps it until the thread ends or the machine is
// closed.  Nobody is inside of a call on a machine (or a mm) while it is closed or checked: close() and check()
// shut the gate, wait until everyone has left, and give up with UsageError where somebody does not leave.
// After a fork the child's inherited machines answer ClosedError, touch no lock, and are never torn down.
//
// Method.  Each thread has a slot on each machine that it used; a thread-local cache of one finds it.  A call
// stores what it uses in its slot, and then reads the gate; who shuts the gate stores it, and then reads every
// slot: the asymmetric fence of RCU, so that a call pays for two plain stores and no shared line.
//
// Lifetime.  Every Python object made on a machine shares the `home`; the core itself goes with close().
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/errors.hpp"
#include "bindings/gil.hpp"
#include "mm/machine.hpp"

namespace pgtbl::inline PGTBL_WORLD {

class khugepaged;
struct scan_trace;
class rcu_place;
class home;
class py_mm;
class py_file;

inline constexpr u64 default_patience_ns = 5'000'000'000;  // how long close() and check() wait for calls

/// What a call needs open: the machine, or the machine and a mm.
struct gate {
  enum : u32 { open, held, closed };
  std::atomic<u32> state{open};
};

/// mmap_lock of a mm, held by a thread on behalf of Python code.  Owned by its thread, until that ends.
struct held_mmap_lock {
  std::shared_ptr<py_mm> mm;
  bool write;
  hold token;
  bool released = false;
};

/// A thread's place on a machine.  Freed with the home only: a thread's cache may point here for longer.
struct cpu_slot {
  std::atomic<const gate*> busy{nullptr};   // what the call under way uses
  std::atomic<const char*> doing{nullptr};  // its name, for messages
  std::atomic<bool> resting{false};  // it sleeps in a userfaultfd, and waits at the gate before it goes on
  cpu* self = nullptr;               // null once given back; the owner's, or the closer's
  u32 tid = 0;
  std::vector<std::shared_ptr<held_mmap_lock>> locks;  // the owner's
  std::shared_ptr<scan_trace> scans;                   // what its collapses found; the owner's
  bool taken = false;                                  // protected by home::lock_
};

class home : public std::enable_shared_from_this<home> {
 public:
  explicit home(const machine_config& config);
  ~home();
  home(const home&) = delete;
  home& operator=(const home&) = delete;

  const u64 serial;  // of all machines of the process
  gate entrance;

  /// The core; inside of a call only.
  machine& core() { return *core_; }

  /// The calling thread's slot; takes a CPU the first time.  May release the GIL meanwhile.
  cpu_slot& slot();

  /// ClosedError where the machine, or the thing of that name behind `g`, is closed; waits where it is held.
  void wait_at_gate(const gate& g, const char* closed_text);
  bool needs_fence() const { return !asymmetric_; }
  bool is_open() const { return entrance.state.load(std::memory_order_acquire) != gate::closed; }

  /// Whether the machine belongs to this process.
  bool is_ours() const { return generation_ == fork_generation(); }

  /// Closes the machine and everything on it.  Once closed (or another process's), does nothing.  With the GIL.
  void close(u64 patience_ns);
  /// Closes one mm: the program ends.  With the GIL.
  void close_mm(py_mm& m, u64 patience_ns);
  /// Runs f() while nobody is inside of a call: without the GIL, the others waiting at the gate.  With the GIL.
  template <class F>
  void while_stopped(u64 patience_ns, const char* what, F&& f) {
    if (!is_ours() || !is_open()) throw_closed();
    const auto alone = lock_gates();
    shut(entrance, gate::held, patience_ns, what);
    struct reopen {
      gate& g;
      ~reopen() { g.state.store(gate::open, std::memory_order_release); }
    } const reopening{entrance};
    const gil_released nogil;
    const std::lock_guard no_thread_leaves(lock_);
    f();
  }

  /// A call of the slot's thread begins or ends to sleep where it holds no lock: who stops the machine for a moment need not
  /// wait for it, and it does not go on before the moment is over.
  void rest(cpu_slot& s, bool rests);

  /// usage_error naming a thread that Python code left inside of a read section of machine.rcu.
  void refuse_sections();

  void raise_breaches() {
    if (core_->breaches.any()) [[unlikely]]
      throw_breaches();
  }

  // The objects made on it; they leave on their own close, and close() closes those left.
  void add(mm* m, const std::shared_ptr<py_mm>& handle);
  void add(mapping* f, const std::shared_ptr<py_file>& handle);
  bool remove(mm* m);  // whether it was there: the caller closes it
  bool remove(mapping* f);
  std::shared_ptr<py_file> handle_of(mapping* f);
  std::shared_ptr<py_mm> handle_of(mm* m);

  /// The calling thread ends.
  void leave(cpu_slot& s);

  /// khugepaged: made at the first use, and started and stopped by one thread at a time.
  struct {
    std::mutex lock;
    std::unique_ptr<khugepaged> it;  // protected by lock, as is the next
    u64 interval_ns = 0;             // 0: it does not run
  } daemon;
  /// What machine.rcu shows; outlives the core, whose domain calls its hook.
  std::shared_ptr<rcu_place> rcu;

 private:
  cpu_slot& slot_slow();
  cpu_slot* claim_slot();
  std::unique_lock<std::mutex> lock_gates();
  /// Shuts g, and waits until no other thread is inside of a call that uses it (every call, for the entrance).
  /// Where that takes longer than patience_ns: opens g again and throws usage_error naming who is inside.
  /// Under gate_lock_, with the GIL.
  void shut(gate& g, u32 how, u64 patience_ns, const char* what);
  /// A signal handler runs in the midst of a call of its thread, which must find what it uses when it goes on.
  void refuse_own_call(const gate& g, const char* what);
  /// What Python code must have left before the machine, or that mm, is closed: usage_error naming it.
  void refuse_if_locked(const py_mm* only);
  void tear_down();
  [[noreturn]] void throw_breaches();
  [[noreturn]] void throw_closed() const;
  std::string inside(const gate* g, const cpu_slot* but, u32 how) const;

  const u32 generation_;
  const int pid_;
  const bool asymmetric_;
  std::unique_ptr<machine> core_;
  mutable std::mutex lock_;
  std::vector<std::unique_ptr<cpu_slot>> slots_;                // protected by lock_
  std::unordered_map<mm*, std::weak_ptr<py_mm>> mms_;           // protected by lock_
  std::unordered_map<mapping*, std::weak_ptr<py_file>> files_;  // protected by lock_
  std::mutex gate_lock_;  // held by who shuts a gate until it is open again, or what is behind it is gone
};

/// The thread's slot of the machine that it used last.
struct slot_cache {
  u64 serial = 0;
  cpu_slot* slot = nullptr;
};
extern constinit thread_local slot_cache last_slot;

inline cpu_slot& home::slot() {
  if (last_slot.serial == serial) [[likely]]
    return *last_slot.slot;
  return slot_slow();
}

/// A call from Python under way.  The GIL, if the caller has it, is only released where it has to wait.
class call {
 public:
  call(home& h, const gate& g, const char* name, const char* closed_text = "")
      : home_(h),
        slot_(h.slot()),
        before_(slot_.busy.load(std::memory_order_relaxed)),
        name_before_(slot_.doing.load(std::memory_order_relaxed)) {
    while (!enter(g)) [[unlikely]] {
      leave();
      h.wait_at_gate(g, closed_text);
    }
    slot_.doing.store(name, std::memory_order_relaxed);
  }
  call(const call&) = delete;
  call& operator=(const call&) = delete;
  ~call() {
    slot_.doing.store(name_before_, std::memory_order_relaxed);
    leave();
  }
  cpu& self() const { return *slot_.self; }
  cpu_slot& slot() const { return slot_; }

 private:
  bool enter(const gate& g) {
    slot_.busy.store(&g, std::memory_order_relaxed);
    // Our place before the gate; shut() has the other half, a membarrier between the gate and the places.
    if (home_.needs_fence()) {
      std::atomic_thread_fence(std::memory_order_seq_cst);
    } else {
      std::atomic_signal_fence(std::memory_order_seq_cst);
    }
    return (home_.entrance.state.load(std::memory_order_acquire) | g.state.load(std::memory_order_acquire)) ==
           gate::open;
  }
  void leave() { slot_.busy.store(before_, std::memory_order_release); }

  home& home_;
  cpu_slot& slot_;
  const gate* const
      before_;  // of the call that this one is inside of: an object may go in the midst of another's
  const char* const name_before_;
};

/// deadlock_error for what may wait for mmap_lock or a folio lock, where the thread is inside of a read section of
/// machine.rcu: the lock's holder may be waiting for the section.
void forbid_section(const cpu& self, const char* name);

/// A call that may block: runs f(cpu&) without the GIL, then raises what the core has logged.
template <class F>
auto run(home& h, const gate& g, const char* name, const char* closed_text, F&& f) {
  const call c(h, g, name, closed_text);
  const gil_released nogil;
  if constexpr (std::is_void_v<std::invoke_result_t<F&, cpu&>>) {
    f(c.self());
    h.raise_breaches();
  } else {
    auto result = f(c.self());
    h.raise_breaches();
    return result;
  }
}
template <class F>
auto run(home& h, const char* name, F&& f) {
  return run(h, h.entrance, name, "", std::forward<F>(f));
}

}  // namespace pgtbl::inline PGTBL_WORLD
