// Locks under stress, for Python: threads that do nothing but lock, and what the hooks think of an order of locks.
#include "lab/lock_stress.hpp"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/breach.hpp"
#include "base/errors.hpp"
#include "bindings/bind.hpp"
#include "bindings/gil.hpp"
#include "sync/spinlock.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

lock_stress_options options_of(u32 threads,
                               u32 locks,
                               u64 milliseconds,
                               u32 inside,
                               u32 outside,
                               u32 write_percent,
                               u32 downgrade_percent,
                               u32 try_percent,
                               u64 seed) {
  const auto in_range = [](const char* what, u64 v, u64 low, u64 high) {
    if (v < low || v > high)
      throw value_error(std::string(what) + ' ' + std::to_string(v) + " is out of range: " +
                        std::to_string(low) + " to " + std::to_string(high) + " is allowed");
  };
  in_range("threads", threads, 1, 256);
  in_range("locks", locks, 1, 65536);
  in_range("milliseconds", milliseconds, 1, 600'000);
  in_range("write_percent", write_percent, 0, 100);
  in_range("downgrade_percent", downgrade_percent, 0, 100);
  in_range("try_percent", try_percent, 0, 100);
  return {threads, locks, milliseconds, inside, outside, write_percent, downgrade_percent, try_percent, seed};
}

py::dict to_dict(const lock_stress_result& r) {
  return py::dict("reads"_a = r.reads, "writes"_a = r.writes, "failed_tries"_a = r.failed_tries,
                  "torn"_a = r.torn, "lost"_a = r.lost, "least"_a = r.least, "most"_a = r.most,
                  "nanoseconds"_a = r.nanoseconds, "acquired_read"_a = r.acquired_read,
                  "acquired_write"_a = r.acquired_write, "failed"_a = r.failed, "contended"_a = r.contended,
                  "wait_ns"_a = r.wait_ns, "breaches"_a = r.breaches);
}

py::dict lock_stress(const std::string& kind,
                     u32 threads,
                     u32 locks,
                     u64 milliseconds,
                     u32 inside,
                     u32 outside,
                     u32 write_percent,
                     u32 downgrade_percent,
                     u32 try_percent,
                     u64 seed) {
  const lock_stress_options o = options_of(threads, locks, milliseconds, inside, outside, write_percent,
                                           downgrade_percent, try_percent, seed);
  lock_stress_result r;
  if (kind != "spin" && kind != "rwsem")
    throw value_error("kind '" + kind + "' is unknown: 'spin' and 'rwsem' are known");
  {
    const gil_released nogil;
    r = kind == "spin" ? stress_spinlocks(o) : stress_rwsems(o);
  }
  return to_dict(r);
}

py::dict lock_starve(u32 readers, u64 milliseconds, u64 section_ns, u64 pause_ns) {
  const u32 n = options_of(readers, 1, milliseconds, 0, 0, 0, 0, 0, 0).threads;
  writer_wait w;
  {
    const gil_released nogil;
    w = writer_among_readers(n, milliseconds, section_ns, pause_ns);
  }
  return py::dict("wait_ns"_a = w.wait_ns, "reads"_a = w.reads);
}

#if defined(PGTBL_WORLD_TORTURE)
// One thread's locks, by class name and number, without the locks: what base/hooks.hpp thinks of their order.
std::vector<std::string> lock_order(const std::vector<std::tuple<std::string, std::string, u32>>& steps,
                                    bool marks_under_folio) {
  const auto class_of = [](const std::string& name) {
    for (unsigned i = 0; i < lock_class_count; ++i)
      if (name == lock_class_names[i]) return static_cast<lock_class>(i);
    throw value_error("lock class '" + name + "' is unknown");
  };
  constexpr u32 numbers = 1024;
  const auto places = std::make_unique<u8[]>(lock_class_count * numbers);
  const auto log = std::make_unique<breach_log>();
  const auto self = std::make_unique<context>();
  self->breaches = log.get();
  self->marks_under_folio = marks_under_folio;
  for (const auto& [step, name, number] : steps) {
    if (step == "sleep") {
      might_sleep(*self, name.c_str());
      continue;
    }
    if (step == "map" || step == "unmap") {
      step == "map" ? ++self->mapped_depth : --self->mapped_depth;
      continue;
    }
    const lock_class c = class_of(name);
    if (number >= numbers)
      throw value_error("lock number " + std::to_string(number) + " is out of range: 0 to 1023");
    const void* lock = &places[static_cast<unsigned>(c) * numbers + number];
    if (step == "lock") note_locking(*self, lock, c);
    if (step == "lock" || step == "try") {
      note_locked(*self, lock, c);
    } else if (step == "unlock") {
      note_unlocked(*self, lock);
    } else {
      throw value_error("step '" + step + "' is unknown: lock, try, unlock, map, unmap, sleep");
    }
  }
  std::vector<std::string> out;
  for (u32 i = 0; i < std::min<u32>(log->written.load(acquire), breach_log::capacity); ++i)
    out.push_back(std::string(log->rows[i].invariant) + ": " + log->rows[i].text);
  return out;
}

std::vector<std::string> dead_lock() {
  const auto log = std::make_unique<breach_log>();
  const auto self = std::make_unique<context>();
  self->breaches = log.get();
  spinlock l;
  const hold first = l.lock(*self, lock_class::ptl);
  l.kill();
  l.unlock(*self, lock_class::ptl, first);             // destroyed while it was held
  const hold second = l.lock(*self, lock_class::ptl);  // used after it was destroyed
  l.init();
  note_unlocked(*self, &l);
  static_cast<void>(second);
  { const spin_guard g(*self, l, lock_class::ptl); }  // alive again: no breach
  std::vector<std::string> out;
  for (u32 i = 0; i < log->written.load(acquire); ++i)
    out.push_back(std::string(log->rows[i].invariant) + ": " + log->rows[i].text);
  return out;
}
#endif

}  // namespace

void bind_lock_stress(py::module_& m) {
  m.def("lock_stress", &lock_stress, "kind"_a, "threads"_a = 2, "locks"_a = 1, "milliseconds"_a = 100,
        "inside"_a = 50, "outside"_a = 50, "write_percent"_a = 10, "downgrade_percent"_a = 0,
        "try_percent"_a = 0, "seed"_a = 1,
        "Threads that do nothing but lock ('spin' or 'rwsem') for some milliseconds, checking that they are "
        "alone; "
        "a dict of what they did and of what their ledgers counted. inside and outside are rounds of about 1 "
        "ns.");
  m.def("lock_starve", &lock_starve, "readers"_a = 4, "milliseconds"_a = 100, "section_ns"_a = 1000,
        "pause_ns"_a = 20000,
        "What one writer waits (ns, entry by entry) among readers that loop without a pause.");
#if defined(PGTBL_WORLD_TORTURE)
  m.def("lock_order", &lock_order, "steps"_a, "marks_under_folio"_a = false,
        "Breaches (G-31, G-32, G-36) of steps ('lock'|'try'|'unlock', class name, number), ('map'|'unmap', "
        "'', 0) "
        "and "
        "('sleep', why, 0), by one thread.");
  m.def("dead_lock", &dead_lock,
        "Breaches (G-3) of a lock that is destroyed while held, and used afterwards.");
#endif
}

}  // namespace pgtbl::inline PGTBL_WORLD
