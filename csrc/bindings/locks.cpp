// Locks for Python: SpinLock and RwSem.
//
// Guarantee.  Whatever a caller does with them is an exception, never a crash and never a wait for itself:
// each thread knows what it holds.  A lock whose holder ends is given back, so that nobody waits for a
// thread that is gone, and says so to everyone who wants it afterwards.
// Method.  A call tries first, and only to wait it lets go of the interpreter.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/breach.hpp"
#include "base/errors.hpp"
#include "bindings/bind.hpp"
#include "bindings/gil.hpp"
#include "bindings/size.hpp"
#include "sync/rwsem.hpp"
#include "sync/spinlock.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

struct mode_counts {
  atomic<u64> acquired{0}, contended{0}, failed{0}, wait_ns{0}, held_ns{0};

  void add_to(py::dict& d, const std::string& name) const {
    d[py::str(name)] = acquired.load(relaxed);
    d[py::str(name + ".contended")] = contended.load(relaxed);
    d[py::str(name + ".failed")] = failed.load(relaxed);
    d[py::str(name + ".wait_ns")] = wait_ns.load(relaxed);
    d[py::str(name + ".held_ns")] = held_ns.load(relaxed);
  }
};

/// What a lock of Python consists of.  Whoever holds it keeps it alive, whatever becomes of the Python object.
struct lock_core {
  virtual ~lock_core() = default;
  /// Gives it back, in whatever way it is held.
  virtual void give_back(context& self, bool writes, hold h) = 0;

  atomic<bool> closed{false};
  atomic<u32> abandoned_by{0};  // tid of a thread that ended inside as the only holder
  atomic<u32> holder{0};        // tid of the only holder
  const u32 generation = fork_generation();

  bool is_closed() const { return closed.load(acquire); }
  void mark_closed() { closed.store(true, release); }

  void usable(const char* kind) const {
    if (generation != fork_generation())
      throw closed_error(std::string("this ") + kind +
                         " belongs to the parent process; make one after the fork");
    if (is_closed()) throw closed_error(std::string("this ") + kind + " is closed");
    if (const u32 tid = abandoned_by.load(acquire))
      throw usage_error(std::string("this ") + kind + " was held by thread " + std::to_string(tid) +
                        ", which ended without releasing it: what it protects may be half changed");
  }
};

struct held_entry {
  std::shared_ptr<lock_core> core;
  bool writes;
  hold h;
  u64 since;
};

/// One per thread that has used a lock; lives as long as the thread.
struct thread_record {
  context self;
  std::vector<held_entry> held;

  ~thread_record() {
    for (held_entry& e : held) {
      if (e.core->generation != fork_generation()) continue;  // its other threads are not in this process
      if (e.writes) e.core->abandoned_by.store(self.tid.load(relaxed), release);
      e.core->give_back(self, e.writes, e.h);
    }
  }

  held_entry* find(const lock_core* c) {
    for (held_entry& e : held)
      if (e.core.get() == c) return &e;
    return nullptr;
  }
};

thread_record& me() {
  // A pointer: thread-local storage of an extension module is scarce, and gives no alignment above 64.
  static thread_local std::unique_ptr<thread_record> record;
  if (record == nullptr) record = std::make_unique<thread_record>();
  const u32 tid = thread_id();  // not that of before a fork
  record->self.tid.store(tid, relaxed);
  record->self.id = tid;
  return *record;
}

std::string thread_text(u32 tid) { return tid == 0 ? "no thread" : "thread " + std::to_string(tid); }

// The three steps of every acquisition: the caller does not hold it; try; wait without the interpreter, to which
// Ctrl-C calls back.  try_it and wait are () and (wait_watch&) -> std::optional<hold>; no hold: p gave up.
template <class Try, class Wait>
bool enter(thread_record& t,
           std::shared_ptr<lock_core> core,
           const char* kind,
           mode_counts& counts,
           bool writes,
           bool blocking,
           Try try_it,
           Wait wait) {
  core->usable(kind);
  if (const held_entry* e = t.find(core.get()))
    throw usage_error(std::string("this thread holds the ") + kind + " already" +
                      (e->writes ? "" : " (for reading)") + ": a second acquire would wait for itself");
  std::optional<hold> h = try_it();
  if (!h && !blocking) {
    counts.failed.fetch_add(1, relaxed);
    return false;
  }
  if (!h) {
    const u64 start = now_ns();
    try {
      wait_interruptibly([&](wait_watch& p) { h = wait(p); });
    } catch (...) {
      if (h) core->give_back(t.self, writes, *h);  // it came with the signal
      throw;
    }
    counts.contended.fetch_add(1, relaxed);
    counts.wait_ns.fetch_add(now_ns() - start, relaxed);
  }
  try {
    core->usable(kind);  // it may have been closed, or its holder may have ended, while we waited
    t.held.push_back({core, writes, *h, now_ns()});
  } catch (...) {
    core->give_back(t.self, writes, *h);
    throw;
  }
  if (writes) core->holder.store(t.self.tid.load(relaxed), relaxed);
  counts.acquired.fetch_add(1, relaxed);
  return true;
}

// The caller's entry for a lock that it is to hold in this mode; says what is the case if it does not.
held_entry& held_by_caller(
    thread_record& t, const lock_core& core, const char* kind, bool writes, const char* doing) {
  if (core.generation != fork_generation()) core.usable(kind);
  held_entry* const e = t.find(&core);
  if (e != nullptr && e->writes == writes) return *e;
  const u32 other = core.holder.load(relaxed);
  if (e == nullptr && other == 0) core.usable(kind);
  const std::string state =
      e != nullptr ? std::string("this thread holds it for ") + (e->writes ? "writing" : "reading")
      : other != 0 ? thread_text(other) + " holds it"
                   : "this thread does not hold it";
  throw usage_error(std::string("cannot ") + doing + ": " + state);
}

hold leave(thread_record& t, held_entry& e, mode_counts& counts) {
  const hold h = e.h;
  counts.held_ns.fetch_add(now_ns() - e.since, relaxed);
  t.held.erase(t.held.begin() + (&e - t.held.data()));
  return h;
}

// ---------------------------------------------------------------- SpinLock

struct spin_core final : lock_core {
  static constexpr lock_class cls = lock_class::other;
  spinlock lock;
  mode_counts counts;

  void give_back(context& self, bool, hold h) override {
    holder.store(0, relaxed);
    lock.unlock(self, cls, h);
  }
};

class py_spinlock {
 public:
  bool acquire(bool blocks) {
    thread_record& t = me();
    return enter(
        t, core_, kind, core_->counts, true, blocks,
        [&] { return core_->lock.try_lock(t.self, spin_core::cls); },
        [&](wait_watch& p) { return core_->lock.lock(t.self, spin_core::cls, p); });
  }
  void release() {
    thread_record& t = me();
    held_entry& e = held_by_caller(t, *core_, kind, true, "release this SpinLock");
    core_->give_back(t.self, true, leave(t, e, core_->counts));
  }
  bool locked() const { return core_->lock.is_locked(); }
  void close() {
    thread_record& t = me();
    if (core_->is_closed()) return;
    const auto h = core_->lock.try_lock(t.self, spin_core::cls);
    if (!h)
      throw usage_error("cannot close this SpinLock: " + thread_text(core_->holder.load(relaxed)) +
                        " holds it");
    core_->mark_closed();
    core_->lock.unlock(t.self, spin_core::cls, *h);
  }
  bool closed() const { return core_->is_closed(); }
  py::dict stats() const {
    py::dict d;
    core_->counts.add_to(d, "lock");
    return d;
  }

 private:
  static constexpr const char* kind = "SpinLock";
  std::shared_ptr<spin_core> core_ = std::make_shared<spin_core>();
};

// ---------------------------------------------------------------- RwSem

struct rwsem_core final : lock_core {
  rwsem sem{lock_class::other_read, lock_class::other_write};
  mode_counts read, write;

  void give_back(context& self, bool writes, hold h) override {
    if (writes) {
      holder.store(0, relaxed);
      sem.write_unlock(self, h);
    } else {
      sem.read_unlock(self, h);
    }
  }
};

class py_rwsem {
 public:
  bool read_lock(bool blocks) {
    thread_record& t = me();
    return enter(
        t, core_, kind, core_->read, false, blocks, [&] { return core_->sem.try_read_lock(t.self); },
        [&](wait_watch& w) { return core_->sem.read_lock(t.self, w); });
  }
  bool write_lock(bool blocks) {
    thread_record& t = me();
    return enter(
        t, core_, kind, core_->write, true, blocks, [&] { return core_->sem.try_write_lock(t.self); },
        [&](wait_watch& w) { return core_->sem.write_lock(t.self, w); });
  }
  void read_unlock() { unlock(false, "release this RwSem for reading", core_->read); }
  void write_unlock() { unlock(true, "release this RwSem for writing", core_->write); }
  void downgrade() {
    thread_record& t = me();
    held_entry& e = held_by_caller(t, *core_, kind, true, "downgrade this RwSem");
    const u64 now = now_ns();
    core_->write.held_ns.fetch_add(now - e.since, relaxed);
    core_->read.acquired.fetch_add(1, relaxed);
    core_->holder.store(0, relaxed);
    e.h = core_->sem.downgrade(t.self, e.h);
    e.writes = false;
    e.since = now;
  }
  void close() {
    thread_record& t = me();
    if (core_->is_closed()) return;
    const auto h = core_->sem.try_write_lock(t.self);
    if (!h) {
      const u32 tid = core_->holder.load(relaxed);
      throw usage_error(
          "cannot close this RwSem: " +
          (tid != 0 ? thread_text(tid) + " holds it for writing"
                    : std::to_string(core_->sem.readers()) + " threads hold it for reading or wait for it"));
    }
    core_->mark_closed();
    core_->sem.write_unlock(t.self, *h);
  }
  bool closed() const { return core_->is_closed(); }
  bool write_locked() const { return core_->sem.is_write_locked(); }
  bool locked() const { return core_->sem.is_locked(); }
  bool contended() const { return core_->sem.is_contended(); }
  u32 readers() const { return core_->sem.readers(); }
  py::object owner() const {
    const u32 tid = core_->sem.owner();
    return tid == 0 ? py::object(py::none()) : py::object(py::int_(tid));
  }
  py::dict stats() const {
    py::dict d;
    core_->read.add_to(d, "rwsem.read");
    core_->write.add_to(d, "rwsem.write");
    return d;
  }

 private:
  void unlock(bool writes, const char* doing, mode_counts& counts) {
    thread_record& t = me();
    core_->give_back(t.self, writes, leave(t, held_by_caller(t, *core_, kind, writes, doing), counts));
  }

  static constexpr const char* kind = "RwSem";
  std::shared_ptr<rwsem_core> core_ = std::make_shared<rwsem_core>();
};

/// What sem.read() and sem.write() give: a section for `with`.  It has no state but the semaphore.
struct rwsem_section {
  py_rwsem sem;
  bool writes;
};

}  // namespace

void bind_locks(py::module_& m) {
  py::class_<py_spinlock>(m, "SpinLock", R"(A spinlock, as the laboratory has one in every page table.

A waiter pauses, yields, and at last sleeps for at most a millisecond at a time; waiters get in in no
particular order. Not recursive. Raises UsageError where a call could only wait for itself, or where the
holder's thread has ended, and ClosedError once closed.)")
      .def(py::init<>())
      .def("acquire", &py_spinlock::acquire, "blocking"_a = true,
           "Takes the lock. False, without waiting, if blocking is false and it is held. A signal handler "
           "that raises "
           "(Ctrl-C) ends the wait.")
      .def("release", &py_spinlock::release,
           "Gives the lock back. UsageError if this thread does not hold it.")
      .def_property_readonly("locked", &py_spinlock::locked, "Whether a thread holds it now.")
      .def_property_readonly("closed", &py_spinlock::closed, "Whether close() was called.")
      .def("close", &py_spinlock::close,
           "Ends the lock's use. UsageError while it is held; again is harmless.")
      .def("stats", &py_spinlock::stats,
           "Counts since it was made, by ledger names: lock (acquisitions), lock.contended (those that "
           "waited), "
           "lock.failed (tries that did not get it), lock.wait_ns, lock.held_ns.")
      .def("__enter__",
           [](py::object self) {
             self.cast<py_spinlock&>().acquire(true);
             return self;
           })
      .def("__exit__", [](py_spinlock& l, const py::args&) { l.release(); });

  py::class_<rwsem_section>(m, "RwSemSection", "A read or write section of an RwSem, for the with statement.")
      .def("__enter__", [](rwsem_section& s) { s.writes ? s.sem.write_lock(true) : s.sem.read_lock(true); })
      .def("__exit__",
           [](rwsem_section& s, const py::args&) { s.writes ? s.sem.write_unlock() : s.sem.read_unlock(); });

  py::class_<py_rwsem>(m, "RwSem",
                       R"(A fair reader-writer semaphore: mmap_lock, with the rules of the kernel's rwsem.

New readers queue behind a waiting writer; when a reader is first in the queue all waiting readers enter
together; whoever has waited for 4 ms is handed the semaphore. Not recursive, not even for reading. Raises
UsageError where a call could only wait for itself, or where a writer's thread has ended, and ClosedError once closed.)")
      .def(py::init<>())
      .def(
          "read_lock", [](py_rwsem& s) { s.read_lock(true); },
          "Enters for reading; waits while a writer is inside or waits.")
      .def(
          "try_read_lock", [](py_rwsem& s) { return s.read_lock(false); },
          "Enters for reading if that needs no wait.")
      .def("read_unlock", &py_rwsem::read_unlock,
           "Leaves. UsageError if this thread is not inside for reading.")
      .def(
          "write_lock", [](py_rwsem& s) { s.write_lock(true); }, "Enters for writing, alone.")
      .def(
          "try_write_lock", [](py_rwsem& s) { return s.write_lock(false); },
          "Enters for writing if nobody is inside and nobody waits.")
      .def("write_unlock", &py_rwsem::write_unlock,
           "Leaves. UsageError if this thread is not inside for writing.")
      .def("downgrade", &py_rwsem::downgrade,
           "Goes on as a reader; no other writer comes between. Waiting readers enter too. Counts as a read "
           "acquisition.")
      .def(
          "read", [](const py_rwsem& s) { return rwsem_section{s, false}; },
          "A read section: with sem.read(): ...")
      .def(
          "write", [](const py_rwsem& s) { return rwsem_section{s, true}; },
          "A write section: with sem.write(): ...")
      .def_property_readonly("locked", &py_rwsem::locked, "Whether anybody is inside.")
      .def_property_readonly("write_locked", &py_rwsem::write_locked, "Whether a writer is inside.")
      .def_property_readonly("contended", &py_rwsem::contended, "Whether anybody waits.")
      .def_property_readonly("readers", &py_rwsem::readers, "How many readers are inside.")
      .def_property_readonly("owner", &py_rwsem::owner,
                             "Thread id (threading.get_native_id()) of the writer inside, or None.")
      .def_property_readonly("closed", &py_rwsem::closed, "Whether close() was called.")
      .def("close", &py_rwsem::close,
           "Ends the semaphore's use. UsageError while anybody is inside; again is harmless.")
      .def("stats", &py_rwsem::stats,
           "Counts since it was made, by ledger names: rwsem.read and rwsem.write (acquisitions), each with "
           ".contended, "
           ".failed (tries), .wait_ns and .held_ns.");
}

}  // namespace pgtbl::inline PGTBL_WORLD
