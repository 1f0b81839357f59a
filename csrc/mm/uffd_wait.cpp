// Who waits for a userfaultfd, and who reads what it tells.
//
// A fault and its resolver meet in two places, the queue and the entry.  The fault queues and then looks at the entry;
// the resolver changes the entry and then looks into the queue, under its lock.  So one of them sees the other
// (uffd_must_wait): without the second look a fault that queues after the wake-up would sleep for ever.
#include <algorithm>

#include "base/errors.hpp"
#include "base/wait_watch.hpp"
#include "mm/userfaultfd.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

void append(uffd_waiter*& list, uffd_waiter* w) {
  uffd_waiter** at = &list;
  while (*at != nullptr) at = &(*at)->next;
  w->next = nullptr;
  w->queued = true;
  *at = w;
}

void unlink(uffd_waiter*& list, uffd_waiter* w) {
  for (uffd_waiter** at = &list; *at != nullptr; at = &(*at)->next)
    if (*at == w) {
      *at = w->next;
      break;
    }
  w->queued = false;
}

uffd_waiter*& list_of(uffd_waiter& w) {
  return w.what.event == uffd_event::pagefault ? w.of.faults : w.of.events;
}

void ring(userfaultfd& u) {
  u.arrivals.fetch_add(1, release);
  unpark_all(u.arrivals);
}

/// Lets a chain of waiters that left their queue go on.  A record may vanish as soon as its state says so.
void let_go(uffd_waiter* w) {
  while (w != nullptr) {
    uffd_waiter* const next = w->next;
    const atomic<u32>& state = w->state;
    w->state.store(uffd_waiter::woken, release);
    unpark_all(state);
    w = next;
  }
}

/// Takes those that match out of the list.
template <class Matches>
uffd_waiter* take_out(uffd_waiter*& list, Matches&& matches) {
  uffd_waiter *taken = nullptr, **at = &list;
  while (uffd_waiter* w = *at) {
    if (!matches(*w)) {
      at = &w->next;
      continue;
    }
    *at = w->next;
    w->queued = false;
    w->next = taken;
    taken = w;
  }
  return taken;
}

/// userfaultfd_must_wait: the entry is still as the fault found it.  Under the fault's lock, no other.
bool must_wait(cpu& self, mm& m, va_t va, uffd_reason reason) {
  const pmd_ref p = pmd_offset(self, m, va);
  while (p) {
    const pmd_t pmd = p.get();
    if (pmd.none()) return true;
    if (pmd.huge()) return reason == uffd_reason::wp && (pmd.v & bit_uffd_wp) != 0;
    const auto t = pte_offset_map(self, p, va);
    if (!t) continue;  // the table has gone: another look at the PMD
    const pte_t e = t->get();
    if (e.none() || e.marker() == marker_uffd_wp) return true;
    return reason == uffd_reason::wp && e.present() && (e.v & bit_uffd_wp) != 0;
  }
  return true;
}

/// Leaves the queue, if it is still there.  Whether it was.
bool withdraw(cpu& self, uffd_waiter& w) {
  const spin_guard g(self, w.of.lock, lock_class::other);
  const bool was = w.queued;
  if (was) unlink(list_of(w), &w);
  return was;
}

/// Says that the CPU holds no lock, and changes nothing, for as long as this lasts.
class rest {
 public:
  explicit rest(cpu& self) : self_(self) { say(true); }
  ~rest() { say(false); }
  rest(const rest&) = delete;
  rest& operator=(const rest&) = delete;

 private:
  void say(bool rests) const {
    if (self_.resting != nullptr) self_.resting(self_.wanted_by, rests);
  }
  cpu& self_;
};

/// Sleeps until the waiter has left its queue.  False: its caller wants it no more, and it left by itself.
bool sleep(cpu& self, uffd_waiter& w) {
  const auto always = [](void*) { return true; };
  wait_watch watch{self.still_wanted != nullptr ? self.still_wanted : always, self.wanted_by};
  const rest resting(self);
  while (w.state.load(acquire) == uffd_waiter::waiting) {
    park(w.state, uffd_waiter::waiting, wait_watch::ask_every_ns);
    if (!wait_watch::lasts(&watch) && withdraw(self, w)) return false;
  }
  return true;
}

const char* to_text(uffd_reason r) {
  switch (r) {
    case uffd_reason::missing: return "missing";
    case uffd_reason::minor: return "minor";
    case uffd_reason::wp: return "write-protect";
  }
  return "";
}

}  // namespace

uffd_waiter* uffd_report(cpu& self, vma& v, va_t va, access a, uffd_reason reason) {
  userfaultfd& u = *v.uffd;
  if ((u.features & uffd_feature_sigbus) != 0) {
    self.led.add(event::fault_bus);
    throw bus_error(std::string(to_string(a)) + " of address " + std::to_string(va) + ": a " +
                    to_text(reason) + " fault that a userfaultfd is to handle");
  }
  pause_at(self, point::uf_reported);
  uffd_message m;
  m.reason = reason;
  m.write = a == access::write;
  m.tid = (u.features & uffd_feature_thread_id) != 0 ? self.tid.load(relaxed) : 0;
  m.start = (u.features & uffd_feature_exact_address) != 0 ? va : page_align_down(va);
  auto* const w = make<uffd_waiter>(u, m);
  bool queued = false;
  {
    // Released says, under the lock, that nobody will look into the queue any more.
    const spin_guard g(self, u.lock, lock_class::other);
    if (u.released.load(relaxed) == 0) {
      append(u.faults, w);
      queued = true;
    }
  }
  if (queued && (!guard(Guard::uffd_must_wait) || must_wait(self, v.owner, va, reason))) {
    ring(u);
    return w;
  }
  // Who has taken it out of the queue already is about to write to it.
  if (queued && !withdraw(self, *w)) await(w->state, [](u32 s) { return s == uffd_waiter::woken; }, acquire);
  destroy(w);
  return nullptr;
}

void uffd_wait(cpu& self, uffd_waiter* w) {
  might_sleep(self, self.irq, "a fault that waits for a userfaultfd");
  self.led.add(event::fault_user);
  pause_at(self, point::uf_sleeps);
  const bool woken = sleep(self, *w);
  const va_t va = w->what.start;
  destroy(w);
  if (!woken)
    throw interrupted("the fault at address " + std::to_string(va) + " waits for a userfaultfd no longer");
}

void uffd_wake(cpu& self, userfaultfd& u, va_t start, u64 length) {
  uffd_waiter* woken;
  {
    const spin_guard g(self, u.lock, lock_class::other);
    woken = take_out(u.faults, [&](const uffd_waiter& w) {
      return w.what.start >= start && w.what.start - start < length;
    });
  }
  let_go(woken);
}

std::optional<uffd_message> uffd_read(cpu& self, userfaultfd& u) {
  uffd_waiter* event = nullptr;
  {
    const spin_guard g(self, u.lock, lock_class::other);
    for (uffd_waiter* w = u.faults; w != nullptr; w = w->next)
      if (!w->read) {
        w->read = true;
        return w->what;
      }
    event = u.events;
    if (event == nullptr) return std::nullopt;
    unlink(u.events, event);
    event->next = nullptr;
    event->read = true;
  }
  const uffd_message m = event->what;
  let_go(event);
  return m;
}

void uffd_await(const userfaultfd& u, u32 seen, u64 ns) { park(u.arrivals, seen, ns); }

u32 uffd_sleepers(cpu& self, userfaultfd& u) {
  const spin_guard g(self, u.lock, lock_class::other);
  u32 n = 0;
  for (const uffd_waiter* w = u.faults; w != nullptr; w = w->next) ++n;
  return n;
}

/// uffd_release()'s last step: its VMAs know it no more.
void uffd_let_all_go(cpu& self, userfaultfd& u) {
  uffd_waiter *faults, *events;
  const auto all = [](const uffd_waiter&) { return true; };
  {
    const spin_guard g(self, u.lock, lock_class::other);
    faults = take_out(u.faults, all);
    events = take_out(u.events, all);
  }
  let_go(faults);
  let_go(events);
  ring(u);
}

// ---------------------------------------------------------------- events

void uffd_events::add(cpu& self, userfaultfd& u, const uffd_message& what) {
  const hold h = u.map_changing.write_lock(self);
  u.mmap_changing.fetch_add(1, acq_rel);
  u.map_changing.write_unlock(self, h);
  noted_.push_back({&u, what});
}

uffd_events::~uffd_events() {
  for (const note& n : noted_) n.of->mmap_changing.fetch_sub(1, acq_rel);
}

void uffd_events::fork(cpu& self, userfaultfd& parent, userfaultfd& child) {
  uffd_message m;
  m.event = uffd_event::fork;
  m.child = &child;
  add(self, parent, m);
}

userfaultfd* uffd_events::child_of(const userfaultfd& parent) const {
  for (const note& n : noted_)
    if (n.of == &parent && n.what.event == uffd_event::fork) return n.what.child;
  return nullptr;
}

void uffd_events::remap(cpu& self, userfaultfd& u, va_t from, va_t to, u64 length) {
  uffd_message m;
  m.event = uffd_event::remap;
  m.start = from;
  m.to = to;
  m.end = from + length;
  add(self, u, m);
}

void uffd_events::remove(cpu& self, userfaultfd& u, va_t start, va_t end) {
  uffd_message m;
  m.event = uffd_event::remove;
  m.start = start;
  m.end = end;
  add(self, u, m);
}

void uffd_events::unmap(cpu& self, userfaultfd& u, va_t start, va_t end) {
  for (const note& n : noted_)
    if (n.of == &u && n.what.event == uffd_event::unmap && n.what.start == start && n.what.end == end) return;
  uffd_message m;
  m.event = uffd_event::unmap;
  m.start = start;
  m.end = end;
  add(self, u, m);
}

void uffd_events::tell(cpu& self) {
  while (!noted_.empty()) {
    const note n = noted_.front();
    userfaultfd& u = *n.of;
    auto* const w = make<uffd_waiter>(u, n.what);
    bool queued = false;
    {
      const spin_guard g(self, u.lock, lock_class::other);
      if (u.released.load(relaxed) == 0) {
        append(u.events, w);
        queued = true;
      }
    }
    bool wanted = true;
    if (queued) {
      ring(u);
      pause_at(self, point::uf_event);
      wanted = sleep(self, *w);
    }
    const bool read = w->read;
    destroy(w);
    u.mmap_changing.fetch_sub(1, acq_rel);
    noted_.erase(noted_.begin());
    // Who never heard of the child's userfaultfd cannot serve it.
    if (n.what.event == uffd_event::fork && !read) uffd_release(self, n.what.child->owner, *n.what.child);
    if (!wanted) throw interrupted("the event of a userfaultfd was not read");
  }
}

}  // namespace pgtbl::inline PGTBL_WORLD
