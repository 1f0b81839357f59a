#include "bindings/threads.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>

#include "bindings/objects.hpp"
#include "bindings/rcu.hpp"
#include "khugepaged/khugepaged.hpp"
#include "mm/syscalls.hpp"

namespace pgtbl::inline PGTBL_WORLD {

constinit thread_local slot_cache last_slot;

namespace {

std::atomic<u64> thread_serials{1};

/// Every slot of the thread; gives them back as it ends.
struct thread_places {
  struct place {
    u64 serial;
    std::weak_ptr<home> where;
    cpu_slot* slot;
  };
  std::vector<place> places;

  ~thread_places() {
    last_slot = {};
    for (const place& p : places)
      if (const auto h = p.where.lock()) h->leave(*p.slot);
  }
};
thread_local thread_places places_of_thread;

// The child of a fork has the parent's cache: its next call must come by slot_slow(), which looks at the fork.
void forget_in_child() { last_slot = {}; }

}  // namespace

home::home(const machine_config& config)
    : serial(thread_serials.fetch_add(1)),
      generation_(fork_generation()),
      pid_(getpid()),
      asymmetric_(membarrier_available()),
      core_(std::make_unique<machine>(config)) {
  static const int registered = pthread_atfork(nullptr, nullptr, forget_in_child);
  (void)registered;
}

home::~home() {
  if (!is_ours()) {
    // The parent's: its threads are not here, and any lock may be held for ever.
    (void)core_.release();
    (void)daemon.it.release();
    return;
  }
  const maybe_released away;
  if (core_ != nullptr) tear_down();
}

// ---------------------------------------------------------------- slots

cpu_slot& home::slot_slow() {
  if (!is_ours() || !is_open()) throw_closed();
  for (const auto& p : places_of_thread.places)
    if (p.serial == serial) {
      last_slot = {serial, p.slot};
      return *p.slot;
    }
  cpu_slot* s = claim_slot();
  // A thread that has just ended in Python may need a moment to give its CPU back.
  for (unsigned tries = 0; s == nullptr && tries < 40; ++tries) {
    const maybe_released away;
    sleep_ns(5'000'000);
    s = claim_slot();
  }
  if (s == nullptr)
    throw usage_error("all " + std::to_string(core_->config.cpus) +
                      " CPUs of the machine are taken: one thread needs one, until it ends; make the machine "
                      "with a larger cpus=");
  std::erase_if(places_of_thread.places, [](const auto& p) { return p.where.expired(); });
  places_of_thread.places.push_back({serial, weak_from_this(), s});
  last_slot = {serial, s};
  return *s;
}

cpu_slot* home::claim_slot() {
  const std::lock_guard held(lock_);
  if (!is_open()) throw_closed();
  cpu* c = core_->cpu_get();
  if (c == nullptr) return nullptr;
  auto it = std::find_if(slots_.begin(), slots_.end(), [](const auto& s) { return !s->taken; });
  if (it == slots_.end()) it = slots_.insert(slots_.end(), std::make_unique<cpu_slot>());
  cpu_slot& s = **it;
  s.self = c;
  s.tid = thread_id();
  s.taken = true;
  return &s;
}

void home::leave(cpu_slot& s) {
  if (!is_ours()) return;
  // A check() or close() that is under way is waited for: it may be looking at this CPU.
  const std::lock_guard held(lock_);
  if (s.self != nullptr) {
    for (const auto& l : s.locks) unlock_now(*s.self, *l);
    s.self->tracing = nullptr;
    core_->cpu_put(s.self);
  }
  s.locks.clear();
  s.scans.reset();
  s.self = nullptr;
  s.taken = false;
}

// ---------------------------------------------------------------- the gate

void home::throw_closed() const {
  if (!is_ours())
    throw closed_error("this machine belongs to process " + std::to_string(pid_) +
                       ", which forked this one; a child process makes machines of its own");
  throw closed_error("the machine is closed");
}

void home::wait_at_gate(const gate& g, const char* closed_text) {
  const maybe_released away;
  for (;;) {
    const u32 machine_state = entrance.state.load(std::memory_order_acquire);
    if (machine_state == gate::closed) throw_closed();
    const u32 state = g.state.load(std::memory_order_acquire);
    if (state == gate::closed) throw closed_error(closed_text);
    if (machine_state == gate::open && state == gate::open) return;
    sleep_ns(50'000);
  }
}

void home::rest(cpu_slot& s, bool rests) {
  for (;;) {
    s.resting.store(rests, std::memory_order_seq_cst);
    // Said, and then looked at the gate: who shuts the gate does that the other way round.
    if (rests || entrance.state.load(std::memory_order_seq_cst) != gate::held) return;
    s.resting.store(true, std::memory_order_seq_cst);
    while (entrance.state.load(std::memory_order_acquire) == gate::held) sleep_ns(50'000);
  }
}

std::string home::inside(const gate* g, const cpu_slot* but, u32 how) const {
  std::string names;
  const std::lock_guard held(lock_);
  for (const auto& s : slots_) {
    if (s.get() == but || !s->taken) continue;
    const gate* busy = s->busy.load(std::memory_order_acquire);
    if (busy == nullptr || (g != &entrance && busy != g)) continue;
    if (how == gate::held && s->resting.load(std::memory_order_seq_cst)) continue;
    const char* doing = s->doing.load(std::memory_order_relaxed);
    names += (names.empty() ? "" : ", ") + std::string("thread ") + std::to_string(s->tid) + " in " +
             (doing == nullptr ? "a call" : doing);
  }
  return names;
}

std::unique_lock<std::mutex> home::lock_gates() {
  const gil_released nogil;
  return std::unique_lock(gate_lock_);
}

void home::shut(gate& g, u32 how, u64 patience_ns, const char* what) {
  const cpu_slot* own = last_slot.serial == serial ? last_slot.slot : nullptr;
  u32 expected = gate::open;
  if (!g.state.compare_exchange_strong(expected, how))
    throw closed_error(std::string("cannot ") + what + ": it is closed");
  try {
    if (asymmetric_) {
      membarrier();
    } else {
      fence(seq_cst);
    }
    const u64 end = now_ns() + patience_ns;
    for (std::string who; !(who = inside(&g, own, how)).empty();) {
      if (now_ns() >= end)
        throw usage_error(std::string("cannot ") + what + " while other threads are inside of calls: " + who);
      {
        const gil_released nogil;
        const u64 look = std::min(end, now_ns() + 20'000'000);
        for (u64 pause = 20'000; now_ns() < look && !inside(&g, own, how).empty();
             pause = std::min<u64>(pause * 2, 2'000'000))
          sleep_ns(pause);
      }
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
  } catch (...) {
    g.state.store(gate::open, std::memory_order_release);
    throw;
  }
}

void home::refuse_own_call(const gate& g, const char* what) {
  if (last_slot.serial != serial) return;
  const cpu_slot& own = *last_slot.slot;
  const gate* const busy = own.busy.load(std::memory_order_relaxed);
  if (busy == nullptr || (&g != &entrance && busy != &g)) return;
  const char* const doing = own.doing.load(std::memory_order_relaxed);
  throw usage_error(std::string("cannot ") + what + " while this thread is inside of " +
                    (doing == nullptr ? "a call" : doing) + ": a signal handler has to let it end first");
}

void home::refuse_if_locked(const py_mm* only) {
  const std::lock_guard held(lock_);
  for (const auto& [m, weak] : mms_) {
    const auto handle = weak.lock();
    if (handle == nullptr || (only != nullptr && handle.get() != only)) continue;
    if (const u32 n = handle->python_locks.load(); n != 0)
      throw usage_error("mmap_lock of mm " + std::to_string(handle->id) + " is held " + std::to_string(n) +
                        (n == 1 ? " time" : " times") + " by Python code: leave the with block first");
  }
}

void home::refuse_sections() {
  const std::lock_guard held(lock_);
  for (const auto& s : slots_)
    if (s->self != nullptr && s->busy.load(std::memory_order_acquire) == nullptr && s->self->rcu.in_section())
      throw usage_error("thread " + std::to_string(s->tid) +
                        " is inside of a read section of machine.rcu: leave the with block first");
}

void home::throw_breaches() {
  const std::string text = core_->breaches.text();
  core_->breaches.clear();
  throw invariant_error(text);
}

void forbid_section(const cpu& self, const char* name) {
  if (const u32 depth = self.rcu.nesting(); depth != 0)
    throw deadlock_error(std::string(name) +
                         " may sleep, and whom it waits for may be waiting for this thread: leave " + "the " +
                         std::to_string(depth) + " read section(s) of machine.rcu first");
}

// ---------------------------------------------------------------- objects, and the end

void home::add(mm* m, const std::shared_ptr<py_mm>& handle) {
  const std::lock_guard held(lock_);
  mms_[m] = handle;
}
void home::add(mapping* f, const std::shared_ptr<py_file>& handle) {
  const std::lock_guard held(lock_);
  files_[f] = handle;
}
bool home::remove(mm* m) {
  const std::lock_guard held(lock_);
  return mms_.erase(m) != 0;
}
bool home::remove(mapping* f) {
  const std::lock_guard held(lock_);
  return files_.erase(f) != 0;
}
std::shared_ptr<py_file> home::handle_of(mapping* f) {
  const std::lock_guard held(lock_);
  const auto it = files_.find(f);
  return it == files_.end() ? nullptr : it->second.lock();
}
std::shared_ptr<py_mm> home::handle_of(mm* m) {
  const std::lock_guard held(lock_);
  const auto it = mms_.find(m);
  return it == mms_.end() ? nullptr : it->second.lock();
}

void home::close(u64 patience_ns) {
  if (!is_ours() || !is_open()) return;
  refuse_own_call(entrance, "close the machine");
  const auto alone = lock_gates();
  if (!is_open()) return;
  refuse_if_locked(nullptr);
  refuse_sections();
  shut(entrance, gate::closed, patience_ns, "close the machine");
  const gil_released nogil;
  tear_down();
}

void home::close_mm(py_mm& m, u64 patience_ns) {
  if (!is_ours() || !is_open()) return;
  refuse_own_call(m.entrance, "close the mm");
  const auto alone = lock_gates();
  if (!is_open() || m.entrance.state.load() == gate::closed) return;
  const call c(*this, entrance, "mm.close");
  forbid_section(c.self(), "mm.close");
  refuse_if_locked(&m);
  shut(m.entrance, gate::closed, patience_ns, "close the mm");
  const gil_released nogil;
  if (remove(m.core)) core_->close_mm(c.self(), m.core);
  raise_breaches();
}

/// Nobody is inside of a call, and nobody will be.
void home::tear_down() {
  entrance.state.store(gate::closed, std::memory_order_seq_cst);
  std::unique_ptr<machine> core;
  {
    const std::lock_guard held(lock_);
    core = std::move(core_);
    if (core == nullptr) return;
    for (const auto& s : slots_) {
      if (s->self == nullptr) continue;
      for (const auto& l : s->locks) unlock_now(*s->self, *l);
      s->locks.clear();
      core->cpu_put(std::exchange(s->self, nullptr));
    }
  }
  {
    const std::lock_guard held(daemon.lock);
    daemon.it.reset();  // which stops it
  }
  if (cpu* self = core->cpu_get()) {
    std::unordered_map<mm*, std::weak_ptr<py_mm>> mms;
    std::unordered_map<mapping*, std::weak_ptr<py_file>> files;
    {
      const std::lock_guard held(lock_);
      mms.swap(mms_);
      files.swap(files_);
    }
    for (const auto& [m, handle] : mms) core->close_mm(*self, m);
    for (const auto& [f, handle] : files) mapping_put(*self, *f);
    core->cpu_put(self);
  }
  core.reset();
}

}  // namespace pgtbl::inline PGTBL_WORLD
