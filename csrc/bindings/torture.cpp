// What only the torture build has: guards that can be taken away, and pauses at named points.
#include "bindings/bind.hpp"

#if defined(PGTBL_WORLD_TORTURE)
#include "base/errors.hpp"
#include "base/guards.hpp"
#include "base/points.hpp"
#include "bindings/gil.hpp"
#include "bindings/objects.hpp"
#include "bindings/size.hpp"
#include "pgtable/walk.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

template <class F>
unsigned find_row(const char* what, const std::string& name, std::size_t n, F&& name_of) {
  std::string known;
  for (std::size_t i = 0; i < n; ++i) {
    if (name == name_of(i)) return static_cast<unsigned>(i);
    known += (known.empty() ? "" : ", ") + std::string(name_of(i));
  }
  throw value_error(std::string("unknown ") + what + " '" + name + "'; known are " + known);
}

unsigned guard_at(const std::string& name) {
  return find_row("guard", name, guard_count, [](std::size_t i) { return guard_table[i].name; });
}
point point_at(const std::string& name) {
  return static_cast<point>(
      find_row("point", name, point_count, [](std::size_t i) { return point_names[i]; }));
}

void set_guard(const std::string& name, bool on) {
  guard_mask removed = guards_removed.get();
  removed.set(guard_at(name), !on);
  guards_removed.set(removed);
}

std::vector<std::string> removed() {
  std::vector<std::string> names;
  for (unsigned i = 0; i < guard_count; ++i)
    if (guards_removed.test(i)) names.emplace_back(guard_table[i].name);
  return names;
}

u32 to_count(const py::object& value, const char* what, u64 least) {
  const u64 n = to_u64(value, what);
  if (n < least || n > 1'000'000)
    throw value_error(std::string(what) + " " + std::to_string(n) + ": " + std::to_string(least) +
                      " to 1000000 are allowed");
  return static_cast<u32>(n);
}

bool wait_at(const std::string& name, const py::object& timeout) {
  const point p = point_at(name);
  const u64 end_ns = to_ns(timeout, "timeout", u64{3600} * 1'000'000'000);
  const u64 end = now_ns() + end_ns;
  for (;;) {
    bool there;
    {
      const gil_released nogil;
      const u64 now = now_ns();
      const u64 left = end > now ? end - now : 0;
      there = point_wait(p, left < 100'000'000 ? left : 100'000'000);
    }
    if (there) return true;
    if (now_ns() >= end) return false;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

u64 tear_pmd(py_mm& m, const int_arg& addr, u32 low) {
  const u64 va = to_u64(addr, "addr");
  const call c(*m.where, m.entrance, "tear_pmd", m.closed_text());
  const mmap_read_guard lock(c.self(), *m.core);
  const pmd_ref p = va < task_size ? pmd_offset(c.self(), *m.core, va) : pmd_ref{};
  if (!p) throw value_error("address " + std::to_string(va) + " has no PMD");
  const u64 old = p.slot->load(relaxed);
  p.slot->store((old & ~u64{0xffffffff}) | low, release);
  return old;
}

/// Breaks an invariant of a page that is mapped small, and of its table, for a look of the checks; `undo` repairs it.
void plant(py_mm& m, const std::string& invariant, const int_arg& addr, bool undo) {
  const u64 va = to_u64(addr, "addr");
  const call c(*m.where, m.entrance, "plant", m.closed_text());
  cpu& self = c.self();
  const mmap_read_guard lock(self, *m.core);
  const pmd_ref pmdp = va < task_size ? pmd_offset(self, *m.core, va) : pmd_ref{};
  auto t = pmdp ? pte_offset_map_lock(self, pmdp, va) : std::nullopt;
  const pte_t pte = t ? t->get(va) : pte_t{};
  if (!pte.present()) throw value_error("address " + std::to_string(va) + " is not mapped by a small page");
  const pgtable_t table = t->table();
  if (invariant == "G-1") {
    assert_unmapped(self, table);  // as if it were freed; we have it mapped
  } else if (invariant == "G-2") {
    if (self.all->n.load(acquire) < 2)
      throw usage_error("breaking G-2 needs a machine that two threads have used");
    cpu& other = *self.all->cpus[self.id == 0 ? 1 : 0];
    other.walking.store(table, seq_cst);
    t.reset();
    assert_unmapped(self, table);
    other.walking.store({}, seq_cst);
  } else if (invariant == "G-33") {
    t->unlock();
    t->set(va, pte);
  } else if (invariant == "G-5") {
    // The neighbour of a PMD that is alone in its table of PMDs.
    entry_word& beside = self.ram->phys.entry(pmdp.in(), index_at(va, pmd_shift) ^ 1);
    beside.store(undo ? 0 : t->pmdval().v, release);
  } else if (invariant == "G-39") {
    frame& f = self.ram->of(self.ram->head_of(pte.pfn()));
    undo ? static_cast<void>(f.flags.fetch_and(~pg_locked, acq_rel))
         : static_cast<void>(f.flags.fetch_or(pg_locked, acq_rel));
  } else if (invariant == "G-40") {
    undo ? m.core->notifiers_open.fetch_sub(1, acq_rel) : m.core->notifiers_open.fetch_add(1, acq_rel);
  } else {
    throw value_error("no way to break '" + invariant + "': G-1, G-2, G-5, G-33, G-39 and G-40 can be");
  }
}

}  // namespace

void bind_torture(py::module_& m) {
  m.def("set_guard", &set_guard, "name"_a, "on"_a,
        "Takes a guard away (on=False) or gives it back, for the whole process; no thread may be in the "
        "laboratory. "
        "ValueError for a name that guards() does not list.");
  m.def("guards_removed", &removed, "Names of the guards that are taken away (list of str).");
  m.def("tear_pmd", &tear_pmd, "mm"_a, "addr"_a, "low"_a,
        "Stores the low half of the PMD of addr, as a stray 32-bit store would, and returns the entry that "
        "was there: "
        "for tests of the checks.");
  m.def("plant", &plant, "mm"_a, "invariant"_a, "addr"_a, "undo"_a = false,
        "Breaks an invariant of the page at addr or of its table, as no protocol does; undo repairs what "
        "stays broken: for "
        "tests of the checks.");
  m.def(
      "points", [] { return std::vector<std::string>(std::begin(point_names), std::end(point_names)); },
      "Names of the points at which a thread can be held (list of str).");
  m.def(
      "point_arm",
      [](const std::string& name, const py::object& arrivals, const py::object& skip) {
        point_arm(point_at(name), to_count(arrivals, "arrivals", 1), to_count(skip, "skip", 0));
      },
      "name"_a, "arrivals"_a = 1, "skip"_a = 0,
      "The next `arrivals` threads that come to the point stop there, after `skip` others passed.");
  m.def(
      "point_wait", &wait_at, "name"_a, "timeout"_a = py::none(),
      "Waits until a thread stands at the point (True), or for `timeout` seconds (False). Ctrl-C stops it.");
  m.def(
      "point_release", [](const std::string& name) { point_release(point_at(name)); }, "name"_a,
      "Lets the threads at the point go on, and disarms it.");
  m.def("points_release_all", &points_release_all, "Lets every thread go on, and disarms every point.");
  m.def(
      "point_waiting", [](const std::string& name) { return point_waiting(point_at(name)); }, "name"_a,
      "How many threads stand at the point now (int).");
}

}  // namespace pgtbl::inline PGTBL_WORLD
#endif
